"""Whether this process was told to end.

The exception that says so may be lost on its way: PyTorch's export, broken off in the middle of an import, says that
the model cannot be exported. What catches everything asks here before it believes that.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_told: list[int] = []  # the signals that said so


def listen() -> None:
    """To SIGTERM and, if it was not ignored, Ctrl-C."""
    signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave by way of what cleans up; a second SIGTERM does not break that off, a second Ctrl-C does."""
    _told.append(number)
    signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else signal.SIG_DFL)
    sys.exit(128 + number)


def told() -> bool:
    return bool(_told)


def check() -> None:
    """Raises SystemExit, once more, if this process was told to end."""
    if _told:
        sys.exit(128 + _told[0])
