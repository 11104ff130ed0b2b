"""A small disk of its own that a test may fill, mounted where the test may mount, or made read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"may not mount here: {done.stderr.strip()}")


@contextmanager
def disk(at: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory of this size."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    at.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(at))
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def read_only(at: Path, on: bool = True) -> None:
    _mount("-o", f"remount,{'ro' if on else 'rw'}", str(at))


@contextmanager
def full(at: Path, free_kb: int = 0) -> Iterator[None]:
    """The disk that holds `at` has only so much room inside this block."""
    ballast = at / ".ballast"
    room = os.statvfs(at)
    with ballast.open("wb") as file:
        file.write(b"\0" * max(0, room.f_bavail * room.f_frsize - free_kb * 1024))
    try:
        yield
    finally:
        ballast.unlink()
