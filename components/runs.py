"""Records to MLflow runs: one per pipeline run, below it one per stage that ran and one per cell.

Reads each file on from where it stopped (`components.backlog`). What it needs of MLflow is `Tracker`, which
`components.tracking` makes.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from components import backlog, record, registry
from components.backlog import FileState
from components.files import write_atomic

LONGEST_VALUE = 6000  # of an MLflow param; tags take 8000

Point = tuple[str, float, int, int]  # metric, value, milliseconds since 1970, step


class Tracker(Protocol):
    """One experiment of a tracking store. Times are seconds since 1970."""

    def find(self, tag: str, value: str) -> str | None:
        """The id of the run with this tag."""
        ...

    def create(self, name: str, tags: Mapping[str, str], started: float | None) -> str: ...

    def metrics(self, run_id: str, points: list[Point]) -> None: ...

    def params(self, run_id: str, values: Mapping[str, str]) -> None: ...

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None: ...

    def artifact(self, run_id: str, path: Path) -> None: ...

    def end(self, run_id: str, status: str, ended: float | None) -> None: ...


class Drain:
    """One pipeline run's folder on its way into MLflow."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self.tracker, self.folder = tracker, folder
        self.workspace = folder.absolute().parent.parent.parent
        self.state = backlog.read_state(folder, registry.address())
        self.look_up = self.state.interrupted
        self.index = Index()

    def run(self, status: str | None = None) -> int:
        self.state.interrupted = True
        backlog.write_state(self.folder, self.state)
        self.parent = self.state.run_id or self._parent()
        self.state.run_id = self.parent
        lines = sum(self._file(path) for path in sorted(self.folder.glob("*.jsonl")))
        if status or (self.state.closed is None and backlog.is_over(self.folder)):
            self._close(status)
        self.state.interrupted = False
        backlog.write_state(self.folder, self.state)
        return lines

    def _create(self, name: str, started: float | None, tags: Mapping[str, str]) -> str:
        """A run with these tags; `temper.record` is its identity, by which one made before a kill is found."""
        found = self.tracker.find("temper.record", tags["temper.record"]) if self.look_up else None
        return found or self.tracker.create(name, tags, started)

    def _parent(self) -> str:
        tags = {"temper.record": self.folder.name, "kind": "pipeline", "pipeline_run": self.folder.name}
        firsts = [next(backlog.unread(path, 0), None) for path in self.folder.glob("*.jsonl")]
        began = min((first[1]["time"] for first in firsts if first), default=None)
        started = record.Provenance.read(self.folder) or record.Provenance()
        run_id = self._create(self.folder.name, began, tags | started.tags)
        if started.params:
            copy = self.folder / "params.yaml"
            copy.write_text(started.params, "utf-8")
            self.tracker.artifact(run_id, copy)
        return run_id

    def _file(self, path: Path) -> int:
        """Track what is new in one stage's file."""
        known = self.state.files.get(path.name)
        first = next((line for _, line in backlog.unread(path, 0)), None)
        if first is None:
            return 0
        if known is None or json.loads(known.first) != first:
            if known and known.status is None:
                self.tracker.end(known.run_id, "KILLED", max(json.loads(known.first)["time"], time.time()))
            known = FileState(json.dumps(first), self._stage(path.name, first))
            self.state.files[path.name] = known
        points: list[Point] = []
        lines, offset = 0, known.offset
        for offset, line in backlog.unread(path, known.offset):
            lines += 1
            if "step" in line:
                points += _points(line, line["time"], line["step"])
            elif "cell" in line:
                self._cell(f"{self.folder.name}/{path.name}#{offset}", line, line.get("time", first["time"]))
            elif "status" in line:
                points += _points(line, line["time"], 0)
                known.status = line["status"]
        self.tracker.metrics(known.run_id, points)
        if known.status and lines:
            self._end(path, known)
        elif known.status is None and not backlog.stage_alive(first):
            known.status = "KILLED"
            self.tracker.end(known.run_id, "KILLED", max(first["time"], path.stat().st_mtime))
        known.offset = offset
        backlog.write_state(self.folder, self.state)
        return lines

    def _stage(self, name: str, first: Mapping[str, Any]) -> str:
        tags = {
            "temper.record": f"{self.folder.name}/{name}/{first['pid']}-{first['start']}",
            "mlflow.parentRunId": self.parent,
            "kind": "stage",
            "stage": first["stage"],
            "host": first["host"],
            "pipeline_run": self.folder.name,
        }
        if first["item"]:
            tags["variant"] = first["item"]
        run_id = self._create(name.removesuffix(".jsonl"), first["time"], tags)
        self._params(run_id, first["params"])
        return run_id

    def _end(self, path: Path, known: FileState) -> None:
        line = [line for _, line in backlog.unread(path, 0)][-1]
        for run_id, paths in ((known.run_id, "artifacts"), (self.parent, "results")):
            for path_ in line.get(paths, []):
                if (self.workspace / path_).exists():
                    self.tracker.artifact(run_id, self.workspace / path_)
        self.tracker.end(known.run_id, line["status"], line["time"])

    def _cell(self, identity: str, line: Mapping[str, Any], at: float) -> None:
        """`at` is the stage's own time: a metric that is sent again with another would be there twice."""
        tags = {name: str(value)[:LONGEST_VALUE] for name, value in line["tags"].items()}
        made_by = self.index.made_by(tags.get("digest"))
        fixed = {
            "temper.record": identity,
            "mlflow.parentRunId": self.parent,
            "kind": "cell",
            "cell": line["cell"],
            "pipeline_run": self.folder.name,
        }
        run_id = self._create(line["cell"], at, tags | fixed | ({"made_by": made_by} if made_by else {}))
        self.index.add(tags.get("digest"), run_id)
        self._params(run_id, line["params"])
        self.tracker.metrics(run_id, _points(line, at, 0))
        self.tracker.end(run_id, "FAILED" if tags.get("status") == "failed" else "FINISHED", at)

    def _params(self, run_id: str, values: Mapping[str, Any]) -> None:
        self.tracker.params(run_id, {_key(name): str(value)[:LONGEST_VALUE] for name, value in values.items()})

    def _close(self, status: str | None) -> None:
        ends = [file.status or "KILLED" for file in self.state.files.values()]
        worst = next((end for end in ("FAILED", "KILLED") if end in ends), "FINISHED")
        self.state.closed = status or worst
        if status:  # said by the run's own driver, while dvc.lock is still this run's
            self.tracker.tag(self.parent, record.dvc_lock(self.workspace))
        lines = [line for path in self.folder.glob("*.jsonl") for _, line in backlog.unread(path, 0)]
        latest = max((line["time"] for line in lines if "time" in line), default=0.0)
        self.tracker.end(self.parent, self.state.closed, max(time.time(), latest))  # the clock may have been set back


class Index:
    """mlruns/index.json: which run first showed the build with a digest. Never inside an output: it is not content."""

    def __init__(self) -> None:
        self.path = registry.mlruns() / "index.json"
        self.all: dict[str, dict[str, str]] = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
        self.runs = self.all.setdefault(registry.address(), {})

    def made_by(self, digest: str | None) -> str | None:
        return self.runs.get(digest) if digest else None

    def add(self, digest: str | None, run_id: str) -> None:
        if not digest or digest in self.runs:
            return
        self.runs[digest] = run_id
        write_atomic(self.path, json.dumps(self.all, indent=1, sort_keys=True))


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def _points(line: Mapping[str, Any], at: float, step: int) -> list[Point]:
    """Metrics that are numbers; what was not measured (None) has no entry, and infinity no store keeps."""
    return [
        (_key(name), float(value), int(at * 1000), step)
        for name, value in line.get("metrics", {}).items()
        if isinstance(value, int | float) and not math.isinf(value)
    ]
