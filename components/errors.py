"""The errors a user can do something about, each with the exit code it ends a command with.

A message says what, where, what was got and what to do. Anything else that escapes is our fault and
keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TemperError(Exception):
    """Base of what is reported without a traceback."""

    exit_code = 1


class ParamsError(TemperError):
    """params.yaml or a command's arguments are wrong; `errors` has one line for each mistake."""

    exit_code = 2

    def __init__(self, errors: list[str]) -> None:
        self.errors = errors
        super().__init__("\n".join(errors))


class DataError(TemperError):
    """The data were refused before any training."""

    exit_code = 3


class TrainingError(TemperError):
    """Training cannot go on: NaN, divergence, nothing to train."""

    exit_code = 4


class Refused(TemperError):
    """A gate refused one cell; a result, not a fault. Reason and figures go into the cell's record."""

    def __init__(self, reason: str, figures: Mapping[str, Any] | None = None) -> None:
        self.figures = dict(figures or {})
        super().__init__(reason)


class NotMeasured(TemperError):
    """A cell cannot be measured on this machine; the message says why and what would change that."""
