"""DVC's run cache after a kill in the midst of a record: an empty folder stops DVC, half a record hides a whole one.

DVC makes a folder for a record, writes it there as `.<letters>.tmp` and renames it; it takes the newest file that it
finds in the folder, whatever it is called.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

SAVED_S = 2.0  # within it DVC has written and renamed a record; before, another workspace may be at it


def clear(runs: Path) -> None:
    """Remove what no process will finish; `runs` is the folder of the records, which other workspaces may share."""
    for folder in runs.glob("*/*"):
        for half in folder.glob(".*.tmp"):
            _wait_for(half)
            half.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody wrote a record meanwhile
            if not any(folder.iterdir()):
                _wait_for(folder)
                folder.rmdir()


def _wait_for(path: Path) -> None:
    with contextlib.suppress(OSError):
        time.sleep(min(max(SAVED_S - (time.time() - path.stat().st_mtime), 0.0), SAVED_S))
