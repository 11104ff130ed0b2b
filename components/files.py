"""Writing small files so that a kill or a full disk leaves what was there before, and nothing half made."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, text: str) -> None:
    """Make `path` this text: aside first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name without the new text
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a JSON line, whole or not at all: the next writer would go on behind half of one."""
    text = json.dumps(line).encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if file.write(text) != len(text):  # what fits is written, and only the next write fails
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(size)
            raise
