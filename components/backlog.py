"""What the stages have recorded (`components.record`) and tracking has not seen yet. Needs no MLflow.

Beside the records of a pipeline run lies tracked.json: which MLflow runs they became and how far each
file was read. It is written before and after every drain, so that a killed one can be taken up again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components import record
from components.files import write_atomic

STATE = "tracked.json"
DRIVER = "driver.json"
# A pipeline run whose driver is not known counts as over after this long without a word.
SILENCE_S = 3600.0


@dataclass
class FileState:
    """How far one stage's file was tracked, and as which MLflow run."""

    first: str  # its first line: a stage that ran again in the same pipeline run starts the file anew
    run_id: str
    offset: int = 0
    status: str | None = None


@dataclass
class RunState:
    """What became of one pipeline run's folder."""

    address: str  # of the store that these ids belong to
    run_id: str | None = None
    closed: str | None = None  # final status
    interrupted: bool = False  # a drain is on, or was killed: what it made must be looked up before making it again
    files: dict[str, FileState] = field(default_factory=dict)


def read_state(folder: Path, address: str) -> RunState:
    try:
        raw = json.loads((folder / STATE).read_text("utf-8"))
    except FileNotFoundError:
        return RunState(address)
    if raw["address"] != address and not raw["closed"]:
        return RunState(address)  # the store was changed half way: the whole run goes to the new one
    return RunState(**{**raw, "files": {name: FileState(**entry) for name, entry in raw["files"].items()}})


def write_state(folder: Path, state: RunState) -> None:
    write_atomic(folder / STATE, json.dumps(asdict(state)))


def pending(root: Path, address: str) -> list[Path]:
    """Folders of pipeline runs that have something to track: unread lines, dead stages, or an end."""
    if not root.is_dir():
        return []
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir() and _is_pending(folder, address)]


def _is_pending(folder: Path, address: str) -> bool:
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        return False
    state = read_state(folder, address)
    for path in files:
        known = state.files.get(path.name)
        if known is None or path.stat().st_size != known.offset:
            return True
        if known.status is None and not stage_alive(json.loads(known.first)):
            return True
    return state.interrupted or (state.closed is None and is_over(folder))


def stage_alive(first: dict[str, Any]) -> bool:
    """Whether the process that wrote this first line may still write; on another host nobody can say: yes."""
    if first["host"] != socket.gethostname():
        return True
    this_boot = first.get("boot") in (None, record.boot_id())  # pids and start times begin anew with each
    return this_boot and record.process_start(first["pid"]) == first["start"]


def begin(folder: Path) -> None:
    """Name this process as the driver of a pipeline run, so that its end can be seen."""
    record.begin(folder)
    pid = os.getpid()
    line = {"pid": pid, "start": record.process_start(pid), "host": socket.gethostname(), "boot": record.boot_id()}
    write_atomic(folder / DRIVER, json.dumps(line))


def is_over(folder: Path) -> bool:
    """Whether the driver of this pipeline run and all its stages are gone."""
    firsts = []
    for path in folder.glob("*.jsonl"):
        lines = [line for _, line in unread(path, 0)]
        if lines and "status" not in lines[-1] and stage_alive(lines[0]):
            return False
        firsts += lines[:1]
    if (folder / DRIVER).exists():
        return not stage_alive(json.loads((folder / DRIVER).read_text("utf-8")))
    if match := re.fullmatch(r"(?:dvc|stage)-(\d+)-(\d+)", folder.name):
        driver = {"pid": int(match[1]), "start": int(match[2]), "host": firsts[0]["host"] if firsts else ""}
        return not stage_alive(driver)
    newest = max(path.stat().st_mtime for path in folder.iterdir())
    return time.time() - newest > SILENCE_S


def unread(path: Path, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset after the line, line) of each whole line from `offset` on; a line still being written is left."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            with contextlib.suppress(ValueError):  # half of one, from before a disk was full
                yield offset, json.loads(line)
