"""Faults of the disk as errors that say where and what to do, whichever library raised them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from components.errors import TemperError

FULL, SHUT = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EPERM)
BROKEN = (errno.EIO, errno.ESTALE, errno.ENOTCONN)
# What libraries say that keep no errno: safetensors, ONNX Runtime, SQLite. EPERM's words are CUDA's too.
WORDS = {
    **{os.strerror(code).lower(): code for code in (*FULL, errno.EROFS, errno.EIO)},
    "(os error 13)": errno.EACCES,
    "disk is full": errno.ENOSPC,
    "readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
}


class DiskFault(TemperError):
    """The disk is full, read-only, not ours or broken: no fault of a cell or of the data, and gone with its cause."""


def disk_fault(error: BaseException, where: Path) -> DiskFault | None:
    """What a fault of the disk is to its user; None if `error`, and what it came from, is none.

    `where` is what was written, for libraries that do not say it.
    """
    for one in _chain(error):
        if isinstance(one, DiskFault):
            return one
        code = one.errno if isinstance(one, OSError) else None
        code = code or next((known for words, known in WORDS.items() if words in str(one).lower()), None)
        if code not in (*FULL, *SHUT, *BROKEN):
            continue
        named = one.filename if isinstance(one, OSError) else None
        path = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else where
        if code in FULL:
            return DiskFault(
                f"{path}: no space is left on its disk ({_free_mb(path)} MB free); free some (`temper gc` "
                f"drops results of earlier params) and try again: what was finished is kept"
            )
        if code in SHUT:
            return DiskFault(
                f"{path}: cannot be written or read here ({os.strerror(code).lower()}); mount it writable or make it "
                f"yours (chown), then try again"
            )
        return DiskFault(f"{path}: the disk fails ({os.strerror(code).lower()}); check the disk, then try again")
    return None


@contextlib.contextmanager
def disk_faults(where: Path) -> Iterator[None]:
    """Faults of the disk inside this block come out as DiskFault."""
    try:
        yield
    except TemperError:
        raise
    except Exception as error:
        if told := disk_fault(error, where):
            raise told from error
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _free_mb(path: Path) -> str:
    """In MB, of the disk that holds `path` or the nearest folder above it that is there."""
    there = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))
    return f"{shutil.disk_usage(there).free / 1e6:.1f}"
