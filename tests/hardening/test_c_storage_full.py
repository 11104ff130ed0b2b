"""A disk that is full in every stage: told in one line, what was there before stays, and it goes on with room again."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import record, registry, tracking
from components.disk import DiskFault
from components.record import Recorder
from tests.components.conftest import empty_store, workspace  # noqa: F401 - fixtures
from tests.hardening.disk import disk, full
from tests.workspace import ROOT, Workspace

# Every stage in the order of the DAG, in one process: with 12 kB of room, with enough, and again without any.
EVERY = """
import io, json, logging, os, sys
from pathlib import Path
from components.hashing import sha256_tree
from components.stage import main
from flows import dvc
from tests.hardening.disk import full
told = []
def run(name, words, label):
    said = io.StringIO()
    sys.stderr, before = said, sys.stderr
    out = next(Path(word[4:]) for word in words if word.startswith("out="))
    was = sha256_tree(out) if out.exists() else None
    try:
        code = main(words)
    except BaseException as error:
        code = repr(error)
    finally:
        sys.stderr = before
    same = (sha256_tree(out) if out.exists() else None) == was
    told.append({"stage": name, "how": label, "code": code, "said": said.getvalue()[-1500:], "same": same})
for name, command in dvc.plan().commands.items():
    words = command.removeprefix("python -m components.stage ").split()
    if not any(word.startswith("out=") for word in words):
        continue
    with full(Path("work"), 12):
        run(name, words, "full")
    run(name, words, "room")
    with full(Path("work")):
        run(name, words, "full again")
Path("told.json").write_text(json.dumps(told))
"""


@pytest.fixture
def tracked_on_a_small_disk(
    workspace: Path,  # noqa: F811
    empty_store: Path,  # noqa: F811
) -> Iterator[Path]:
    with disk(workspace / "mlruns", 8) as mounted:
        shutil.copy(empty_store, mounted / "mlflow.db")
        yield mounted


@pytest.mark.drill
@pytest.mark.hardening("C15", "the disk is full in each stage, at its start and with a result already there")
def test_a_full_disk_in_every_stage_is_told_and_costs_nothing(tmp_path: Path, record_property: Any) -> None:
    space = Workspace(tmp_path / "workspace")
    with disk(space.folder / "work", 64):
        known = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPER_", "MLFLOW_"))}
        done = subprocess.run(
            [sys.executable, "-c", EVERY],
            cwd=space.folder,
            env={**known, "PYTHONPATH": f"{space.folder}:{ROOT}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((space.folder / "told.json").read_text())
    stages = {entry["stage"].partition("@")[0] for entry in told}
    assert {"ingest", "validate", "prepare", "init", "make", "build", "evaluate", "benchmark", "compare"} <= stages
    for entry in told:
        if entry["how"] == "room":
            assert entry["code"] == 0, entry
            continue
        if entry["code"] == 0:  # a result of a few bytes found room
            continue
        assert entry["same"], entry
        assert entry["code"] == 1 and "Traceback" not in entry["said"], entry
        assert "no space is left on its disk" in entry["said"] and "try again" in entry["said"], entry
    failed = [entry["stage"] for entry in told if entry["code"] == 1]
    assert {"ingest", "prepare", "make", "build", "evaluate"} <= {name.partition("@")[0] for name in failed}
    record_property("times", len(failed))


@pytest.mark.hardening("C15", "the disk of the tracking store is full while a run is tracked")
def test_a_full_disk_of_the_store_loses_nothing(tracked_on_a_small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_RUN", "run-full")
    recorder = Recorder("make", "base", {"seed": 0})
    for step in range(2000):
        recorder.log({"loss": 1 / (step + 1)}, step)
    with full(tracked_on_a_small_disk, 64), pytest.raises(DiskFault, match="no space is left on its disk"):
        tracking.drain()
    with sqlite3.connect(tracked_on_a_small_disk / "mlflow.db") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    recorder.end("FINISHED", {}, [])
    tracking.close("run-full", "FINISHED")
    with sqlite3.connect(tracked_on_a_small_disk / "mlflow.db") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store.execute("SELECT COUNT(*), COUNT(DISTINCT step) FROM metrics").fetchone() == (2000, 2000)
        assert store.execute("SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (2,)
    assert registry.champion("digits") is None


@pytest.mark.hardening("C15", "the disk of the records is full while a stage logs")
def test_half_a_line_is_never_left(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("TEMPER_RUN", "run-full")
    with disk(workspace / ".temper", 1) as mounted:
        recorder = Recorder("make", "base", {"seed": 0})
        step = 0
        with full(mounted, 8), pytest.raises(OSError, match="No space left"):
            for step in range(10_000):
                recorder.log({"loss": 1 / (step + 1)}, step)
        recorder.log({"loss": 0.0}, step)
        lines = [json.loads(line) for line in recorder.path.read_text().splitlines()]
        assert [line["step"] for line in lines[1:]] == list(range(step + 1)), "each step once, whole"
        assert not list((mounted / "runs" / "run-full").glob(".*")), "a temporary file was left"
        assert Path(".temper/runs") == record.ROOT
