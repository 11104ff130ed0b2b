"""Ending what a group of servers left behind: every process that carries the group's token, whoever its parent is.

python -m flows.orphans TOKEN     waits until standard input is closed, be it by kill -9, then ends them all
"""

from __future__ import annotations

import contextlib
import os
import sys

import psutil

from flows.group import PART, TOKEN

PATIENCE_S = 3.0
REAPER = "reaper"


def marked(token: str, part: str | None = None) -> list[psutil.Process]:
    """Living processes with this token, of one part of the group or of all but the reaper."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get(TOKEN) != token or process.pid == os.getpid():
                continue
            own = environment.get(PART, "")
            if (own == part if part else own != REAPER) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def sweep(token: str, part: str | None = None) -> int:
    """kill -9 for all of them, again until none is left (one may have just started another). Returns how many."""
    ended = 0
    while found := marked(token, part):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _, left = psutil.wait_procs(found, timeout=PATIENCE_S)
        ended += len(found) - len(left)
        if len(left) == len(found):
            break
    return ended


if __name__ == "__main__":
    sys.stdin.read()
    sweep(sys.argv[1])
