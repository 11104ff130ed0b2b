"""Temporary files that a kill cannot strand: all below .temper/tmp, in a folder whose lock ends with its process.

Temporary folders of Temper and of its libraries come to lie there while `private` is on. What a killed process left
is removed by the next that comes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(".temper/tmp")
MACHINE_ROOT = Path(tempfile.gettempdir())  # what was the folder for such files before `private` was on
YOUNG_S = 2.0  # a folder is made first and locked then


@contextlib.contextmanager
def private() -> Iterator[Path]:
    """The folder of this process for temporary files, mode 0700; gone afterwards, with what is in it."""
    ROOT.mkdir(parents=True, exist_ok=True, mode=0o700)
    clear()
    before, made = tempfile.tempdir, Path(tempfile.mkdtemp(dir=ROOT.absolute()))
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        tempfile.tempdir = str(made)
        yield made
    finally:
        tempfile.tempdir = before
        shutil.rmtree(made, ignore_errors=True)
        os.close(descriptor)


def abandoned(workspace: Path = Path()) -> list[Path]:
    """Folders whose process is gone."""
    root = workspace / ROOT
    return [path for path in sorted(root.iterdir()) if _is_abandoned(path)] if root.is_dir() else []


def clear() -> None:
    """Remove them."""
    for path in abandoned():
        shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_ctime < YOUNG_S:
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
