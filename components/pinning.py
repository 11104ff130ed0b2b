"""Threads on processors of their own, so that two of them never share one while another is idle.

Left to the scheduler, the second thread of a session that sleeps between calls may wake up on the first one's
processor: at 0.3 ms a call that alone made two sessions of one file differ by a quarter on a busy machine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")
TASKS = Path("/proc/self/task")
TOPOLOGY = Path("/sys/devices/system/cpu")


def processors(threads: int, topology: Path = TOPOLOGY) -> list[int]:
    """One for each thread, of as many cores as there are; none where they are too few or the system cannot pin."""
    if not hasattr(os, "sched_setaffinity") or not TASKS.exists():
        return []
    of_core: dict[str, list[int]] = {}
    for number in sorted(os.sched_getaffinity(0)):
        siblings = topology / f"cpu{number}" / "topology" / "thread_siblings_list"
        of_core.setdefault(siblings.read_text("utf-8").strip() if siblings.exists() else str(number), []).append(number)
    firsts = [numbers[0] for numbers in of_core.values()]
    chosen = firsts + [number for numbers in of_core.values() for number in numbers[1:]]
    return chosen[:threads] if len(chosen) >= threads else []


def threads() -> set[int]:
    return {int(task.name) for task in TASKS.iterdir()}


def spread(make: Callable[[], Made], on: list[int]) -> Made:
    """What `make` returns; the threads that it started go to the processors after the first, one each."""
    if not on:
        return make()
    before = threads()
    made = make()
    others = on[1:] or on
    for number, thread in enumerate(sorted(threads() - before)):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread, {others[number % len(others)]})
    return made


@contextlib.contextmanager
def first(on: list[int]) -> Iterator[None]:
    """This thread on the first of the processors, and back."""
    if not on:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {on[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
