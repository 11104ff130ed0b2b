"""What kills may strand in a workspace: processes, temporary files, locks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from components import record, scratch
from components.stage import ASIDE
from flows import group

ASIDE_NAME = re.compile(r"\.(.+)\.(\d+)(-wal|-shm|-journal)?")  # how everything that is then renamed is called
PLACES = (".temper", ".temper/lr-find", ".temper/reproduce", "mlruns")  # where, besides all below these:
TREES = ("work", ".temper/runs")
NEW = ".temper/*.new"
PATIENCE_S = 5.0  # processes that were told to end, or see that their driver is gone, are given this
FOLLOWS_S = 60.0  # what tracks a plain `dvc repro` goes on until all is written
LOCKS = (".dvc/tmp/driver.lock", ".temper/up.lock")


def found(workspace: Path) -> Iterator[tuple[str, str]]:
    """(what is left and where, what to do)"""
    until = time.monotonic() + PATIENCE_S
    while (left := orphans(workspace)) and time.monotonic() < until:
        time.sleep(0.1)
    for process, why in left:
        yield f"process {process} is left: {why}", f"`kill {process}`"
    for path in files(workspace):
        yield f"{path}: a temporary file of a process that is gone", "`temper run` removes it"
    yield from locks(workspace)


def files(workspace: Path) -> list[Path]:
    """Temporary files and folders whose process is gone."""
    here = [path for place in PLACES for path in (workspace / place).glob(".*")]
    # os.walk goes on where a folder vanishes meanwhile.
    walked = (step for tree in TREES for step in os.walk(workspace / tree))
    here += [Path(at, name) for at, *both in walked for name in (*both[0], *both[1]) if name.startswith(".")]
    dead = [path for path in here if (match := ASIDE_NAME.fullmatch(path.name)) and _is_dead(int(match[2]))]
    return sorted(dead + list(workspace.glob(NEW)) + scratch.abandoned(workspace))


def clear(workspace: Path, stale: set[str]) -> list[str]:
    """Remove them, and what grew of stages that are not stale, so that nothing will go on with it; returns its names.

    The caller holds the driver's lock.
    """
    for path in files(workspace):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    gone = [path for path in (workspace / ASIDE).glob("*") if path.name not in stale]
    for path in gone:
        shutil.rmtree(path)
    return [path.name for path in gone]


def orphans(workspace: Path) -> list[tuple[int, str]]:
    """(pid, why it should not be there) of processes of ours that work in this folder."""
    own = group.read(workspace)
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words, environment = process.cmdline(), process.environ()
            if own and environment.get(group.TOKEN) == own.token:
                if not own.alive:
                    left.append((process.pid, f"{_short(words)}, whose `temper up` is gone"))
            elif Path(process.cwd()).is_relative_to(workspace) and (why := _orphaned(process, words, environment)):
                left.append((process.pid, f"{_short(words)}, {why}"))
    return left


def _orphaned(process: psutil.Process, words: list[str], environment: dict[str, str]) -> str:
    """Why a process is an orphan; empty if it is none, or not ours."""
    if "components.tracking" in words:
        pid, start = map(int, words[words.index("components.tracking") + 1 :][:2])
        late = time.time() - process.create_time() > FOLLOWS_S
        return "and what it follows is gone" if late and record.process_start(pid) != start else ""
    driver = re.fullmatch(r"run-\d+-\d+-(\d+)", environment.get("TEMPER_RUN", ""))
    if driver and _is_dead(int(driver[1])):
        return f"whose `temper run` (pid {driver[1]}) is gone"
    if "components.stage" in words and process.ppid() == 1:
        return "which nothing waits for"
    return ""


def locks(workspace: Path) -> Iterator[tuple[str, str]]:
    """Locks that are held though who took them is gone: a child of it holds them on."""
    for name in LOCKS:
        path = workspace / name
        holder = path.read_text("utf-8").strip() if path.exists() else ""
        if holder.isdigit() and is_held(path) and _is_dead(int(holder)):
            yield f"{path}: is held, but process {holder}, who took it, is gone", f"see `lslocks`, or `fuser {path}`"
    path = workspace / ".dvc/tmp/rwlock"
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
        known = json.loads(path.read_text("utf-8"))
        entries = list(known.get("write", {}).values())
        entries += [holder for holders in known.get("read", {}).values() for holder in holders]
        for pid in sorted({entry["pid"] for entry in entries}):
            if _is_dead(pid):
                yield f"{path}: process {pid}, who is gone, holds paths", "the next run takes them from it"


def is_held(path: Path) -> bool:
    """Whether somebody holds a file's lock now."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_dead(pid: int) -> bool:
    return record.process_start(pid) is None


def _short(words: list[str]) -> str:
    return " ".join(words)[-100:]
