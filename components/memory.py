"""How much memory a stage may take while it reads what somebody else wrote.

A small file can unpack to very much: what it will need is not written in it, so the process is bounded (Linux).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEGABYTE = 1 << 20


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Inside, this process may take so much more than it has: what asks for more gets a MemoryError.

    It bounds what is allocated (RLIMIT_DATA, the soft limit), not files that are mapped; elsewhere than on Linux
    nothing is bounded.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return
    import resource

    found = re.search(r"VmData:\s+(\d+)", status.read_text("utf-8"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = (int(found[1]) * 1024 if found else 0) + megabytes * MEGABYTE
    for known in (soft, hard):
        most = most if known == resource.RLIM_INFINITY else min(most, known)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
