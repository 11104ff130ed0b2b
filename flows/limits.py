"""What a running stage takes: how long, how much memory, how much disk; the first limit that it goes over ends it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.stage import ASIDE

LOOK_S = 0.5
GB = 1e9


@dataclass(frozen=True)
class Limits:
    """Of one stage and all that it starts. A limit of address space would not do: torch reserves what it never uses."""

    seconds: float
    memory_gb: float | None = None
    disk_gb: float | None = None

    @classmethod
    def of(cls, seconds: float, given: Mapping[str, Any] | None) -> Limits:
        """`given`: the section `limits` of params.yaml as plain data."""
        return cls(seconds, **(given or {}))

    @property
    def _looks(self) -> bool:
        return self.memory_gb is not None or self.disk_gb is not None

    def watch(self, stage: str, pid: int, ended: threading.Event, end: Callable[[str], None]) -> None:
        """Until `ended` is set; calls `end`, once, with what the stage went over and what to do about it."""
        until = time.monotonic() + self.seconds
        while (left := until - time.monotonic()) > 0:
            if ended.wait(min(left, LOOK_S) if self._looks else left):
                return
            if self._looks and (over := self._over(stage, pid)):
                end(over)
                return
        end(f"took over {self.seconds:.0f} s and was killed with all it had started; raise --stage-timeout-s")

    def _over(self, stage: str, pid: int) -> str:
        if self.memory_gb is not None and (taken := resident_bytes(pid) / GB) > self.memory_gb:
            return (
                f"took {taken:.2f} GB of memory and was killed with all it had started: limits.memory_gb is "
                f"{self.memory_gb:g}; raise it, or make batches smaller"
            )
        if self.disk_gb is not None and (taken := written_bytes(ASIDE / stage) / GB) > self.disk_gb:
            return (
                f"wrote {taken:.2f} GB to {ASIDE / stage} and was killed with all it had started: limits.disk_gb is "
                f"{self.disk_gb:g}; raise it"
            )
        return ""


def resident_bytes(pid: int) -> int:
    """Of a process and all below it. Pages that they share count once for each."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def written_bytes(folder: Path) -> int:
    total = 0
    for at, folders, names in os.walk(folder):  # which goes on where a folder vanishes: the stage is at work
        for name in (*folders, *names):
            with contextlib.suppress(OSError):
                total += Path(at, name).lstat().st_size
    return total
