"""What is said and kept has no secrets in it: values of variables that hold some, and credentials in addresses.

Messages of others' errors may quote either (a database client its whole address); they end in logs, records and runs.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from types import TracebackType

NAMES = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|AUTH_STRING|ACCESS_KEY|API_KEY|PRIVATE_KEY", re.IGNORECASE)
ADDRESS = re.compile(r"(?<=://)[^/@\s'\"]*@")  # what stands between the scheme and the host
HOLDING = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/@\s'\"]+)@")
SHORTEST = 5  # characters; a shorter value would be found in words
SHOWN = "***"


def without_secrets(text: str) -> str:
    """`text` with every secret of the environment, and what an address says before its host, made unreadable."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, SHOWN)
    return ADDRESS.sub(f"{SHOWN}@", text)


def has_credentials(text: str) -> bool:
    """Whether an address in `text` has a password, or what may be a token in its place (with ssh:// it is a user)."""
    return any(":" in inside or scheme != "ssh" for scheme, inside in HOLDING.findall(text))


def _secrets() -> set[str]:
    found: set[str] = set()
    for name, value in os.environ.items():
        if NAMES.search(name):
            found |= {value, value.partition(":")[2]}  # user:password
        for inside in ADDRESS.findall(value):
            found.add(inside[:-1].partition(":")[2])
    return {value for value in found if len(value) >= SHORTEST}


class Formatter(logging.Formatter):
    """Log lines, tracebacks among them, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def guard() -> None:
    """From now on the traceback that ends this process has no secrets in it."""

    def told(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, where))))

    sys.excepthook = told
