"""What a stage leaves behind to be tracked: one JSON-lines file a stage, cheap to write and safe to kill.

`tracking.drain` turns these files into MLflow runs; a stage itself never imports mlflow. Lines:

    {"stage": "make", "item": "base", "pid": 1, "host": "...", "boot": "...", "time": 0.0, "params": {...}}   first
    {"step": 3, "time": 0.0, "metrics": {"loss": 0.1}}                                         any number
    {"cell": "base/fp32", "time": 0.0, "params": {...}, "metrics": {...}, "tags": {...}}         any number
    {"status": "FINISHED", "time": 0.0, "metrics": {...}, "artifacts": [path], "results": [path]}   last

Beside them lies provenance.json, what the pipeline run started from: by the time it is tracked, that may have changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components import registry
from components.files import append_line
from components.hashing import sha256_file

ROOT = Path(".temper/runs")  # one folder a pipeline run
PROVENANCE = "provenance.json"


def pipeline_run() -> str:
    """The name of the pipeline run this process belongs to.

    The flow sets TEMPER_RUN; under plain `dvc repro` it is the dvc process and the time it started.
    """
    if name := os.environ.get("TEMPER_RUN"):
        return name
    driver = dvc_process()
    return f"dvc-{driver[0]}-{driver[1]}" if driver else f"stage-{os.getpid()}-{process_start(os.getpid())}"


def process_start(pid: int) -> int | None:
    """Start time in clock ticks since boot: with the pid it names a process for good. None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])  # dead, but its parent has not asked yet


def process() -> dict[str, str]:
    """Tags of a tracked run that say which process is at work on it."""
    pid = os.getpid()
    names = {"host": socket.gethostname(), "boot": boot_id(), "pid": str(pid), "start": str(process_start(pid))}
    return {f"temper.{name}": value for name, value in names.items()}


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether such tags name a process of this host that does not run any more."""
    if tags.get("temper.host") != socket.gethostname():
        return False
    return tags["temper.boot"] != boot_id() or tags["temper.start"] != str(process_start(int(tags["temper.pid"])))


def boot_id() -> str:
    """Names this boot of this machine: pids and their start times begin anew with the next. Empty if not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return ""


def dvc_process() -> tuple[int, int] | None:
    """Pid and start time of the dvc process above this one, if a dvc command started it."""
    pid = os.getppid()
    while pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return None
        if any(Path(word.decode(errors="replace")).name == "dvc" for word in words[:3]):
            start = process_start(pid)
            return (pid, start) if start is not None else None
        pid = parent
    return None


def git_state(workspace: Path) -> dict[str, str]:
    """Commit and whether the tree differs from it; empty outside a git checkout.

    TEMPER_COMMIT names the commit that the driver made of everything that runs. `git.head` is then the user's own
    commit, and `git.head_dirty` whether his tree differs from that one.
    """
    if kept := kept_commit():
        own = _checkout_state(registry.root())
        return kept | ({"git.head": own["git.commit"], "git.head_dirty": own["git.dirty"]} if own else {})
    return _checkout_state(workspace)


def _checkout_state(checkout: Path) -> dict[str, str]:
    def git(*words: str) -> str | None:
        answer = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except OSError:
        return {}
    return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()} if commit else {}


def kept_commit() -> dict[str, str]:
    """The commit that the driver made of everything that runs; empty if it made none."""
    commit = os.environ.get("TEMPER_COMMIT")
    return {"git.commit": commit, "git.dirty": "false"} if commit else {}


def dvc_lock(workspace: Path) -> dict[str, str]:
    path = workspace / "dvc.lock"
    return {"dvc_lock.sha256": sha256_file(path)} if path.exists() else {}


def environment(workspace: Path) -> dict[str, str]:
    """What the code ran with: the Python and the lock file of packages, if the workspace has one."""
    lock = workspace / "constraints.txt"
    python = {"python": platform.python_version()}
    return python | ({"constraints.sha256": sha256_file(lock)} if lock.exists() else {})


def _plain(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def values_sha256(text: str) -> str:
    """One hash over what a YAML text says: not over its comments, blanks and order of keys."""
    return hashlib.sha256(json.dumps(_plain(text), sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Provenance:
    """What a run or a version must name to be made again."""

    name: str = "temper"  # of the registered model, and so of the experiment
    tags: dict[str, str] = field(default_factory=dict)
    params: str = ""  # the text of params.yaml

    @classmethod
    def now(cls, workspace: Path) -> Provenance:
        from components import params

        path = workspace / "params.yaml"
        text = path.read_text("utf-8")
        hashes = {"params.sha256": sha256_file(path), "params.values.sha256": values_sha256(text)}
        tags = {"host": socket.gethostname(), **git_state(workspace), **hashes, **environment(workspace)}
        if experiment := os.environ.get("DVC_EXP_NAME"):
            tags["dvc.experiment"] = experiment
        return cls(params.load(path).name, tags | dvc_lock(workspace), text)

    @property
    def settings(self) -> Any:
        """params.yaml as it was, as plain data."""
        return _plain(self.params)

    @classmethod
    def read(cls, folder: Path) -> Provenance | None:
        """None if nothing was recorded in this pipeline run's folder."""
        path = folder / PROVENANCE
        return cls(**json.loads(path.read_text("utf-8"))) if path.exists() else None


def begin(folder: Path) -> None:
    """Keep what a pipeline run starts from in its folder; the first of its processes to come does it for all."""
    path = folder / PROVENANCE
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{PROVENANCE}.{os.getpid()}"
    try:
        aside.write_text(json.dumps(asdict(Provenance.now(folder.absolute().parents[2]))), "utf-8")
        with contextlib.suppress(FileExistsError):  # another was first: what it saw stands
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


class Recorder:
    """Appends lines to .temper/runs/<pipeline run>/<stage>[@<item>].jsonl; each line is one write."""

    def __init__(self, stage: str, item: str | None, params: Mapping[str, Any]) -> None:
        name = f"{stage}@{item}" if item else stage
        self.path = ROOT / pipeline_run() / f"{name}.jsonl"
        begin(self.path.parent)
        self.path.unlink(missing_ok=True)
        self._began, self._ticks = time.time(), time.monotonic()
        self.write(
            stage=stage,
            item=item,
            pid=os.getpid(),
            start=process_start(os.getpid()),
            host=socket.gethostname(),
            boot=boot_id(),
            time=self._began,
            params=dict(params),
        )

    def write(self, **line: Any) -> None:
        append_line(self.path, line)

    def _now(self) -> float:
        """Seconds since 1970 that never run backwards, whatever happens to the clock."""
        return self._began + time.monotonic() - self._ticks

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics at a step; NaN is written as such, which MLflow takes."""
        self.write(step=step, time=self._now(), metrics=dict(metrics))

    def cell(self, cell: str, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """One cell of the matrix, tracked as a run of its own."""
        self.write(cell=cell, time=self._now(), params=dict(params), metrics=dict(metrics), tags=dict(tags))

    def end(self, status: str, metrics: Mapping[str, float], artifacts: list[str], results: Sequence[str] = ()) -> None:
        """`artifacts` go to the stage's run, `results` to the pipeline's, where a reader looks first."""
        self.write(status=status, time=self._now(), metrics=dict(metrics), artifacts=artifacts, results=list(results))
