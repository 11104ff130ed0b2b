from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

from components import backlog, record, registry, tracking, versions
from components.errors import TemperError
from components.hashing import sha256_file
from components.record import Recorder

RUN = "flow-1"


@pytest.fixture
def recorder(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("TEMPER_RUN", RUN)
    return Recorder("make", "base", {"variant.fit.epochs": 2, "seed": 0})


def runs(**tags: str) -> list[object]:
    client = tracking.client()
    experiment = client.get_experiment_by_name("digits")
    if experiment is None:
        return []
    query = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    return list(client.search_runs([experiment.experiment_id], query))


def only(**tags: str):  # type: ignore[no-untyped-def]
    found = runs(**tags)
    assert len(found) == 1, found
    return found[0]


def test_records_become_a_tree_of_runs(recorder: Recorder) -> None:
    recorder.log({"loss": 2.0}, 1)
    recorder.log({"loss": 1.0}, 2)
    assert tracking.drain() == 3
    recorder.log({"loss": 0.5}, 3)
    digest = {"digest": "abc", "variant": "base", "target": "fp32", "status": "ok"}
    recorder.cell("base/fp32", {"kind": "onnx_fp32"}, {"accuracy": 0.9, "latency_ms": 0.1}, digest)
    Path("metrics.json").write_text("{}", "utf-8")
    Path("report.html").write_text("<!doctype html>", "utf-8")
    recorder.end("FINISHED", {"accuracy": 0.9}, ["metrics.json", "gone.json"], ["report.html", "gone.html"])
    assert tracking.drain() == 3
    assert tracking.drain() == 0

    client = tracking.client()
    parent, stage, cell = only(kind="pipeline"), only(kind="stage"), only(kind="cell")
    assert parent.data.tags["pipeline_run"] == RUN and parent.info.status == "RUNNING"
    assert [entry.path for entry in client.list_artifacts(parent.info.run_id)] == ["params.yaml", "report.html"]
    assert {run.data.tags["mlflow.parentRunId"] for run in (stage, cell)} == {parent.info.run_id}
    assert stage.info.run_name == "make@base" and stage.info.status == "FINISHED"
    assert stage.data.params == {"variant.fit.epochs": "2", "seed": "0"}
    curve = client.get_metric_history(stage.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert [entry.path for entry in client.list_artifacts(stage.info.run_id)] == ["metrics.json"]
    assert cell.data.metrics == {"accuracy": 0.9, "latency_ms": 0.1} and cell.data.tags["variant"] == "base"

    tracking.close(RUN, "FINISHED")
    assert only(kind="pipeline").info.status == "FINISHED"
    assert tracking.drain() == 0


@pytest.mark.hardening("A4", "killed while records are tracked")
@pytest.mark.hardening("D23", "what sends records is killed, and taken up")
def test_a_drain_that_was_killed_is_taken_up(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder.log({"loss": 2.0}, 1)
    recorder.cell("base/fp32", {}, {"accuracy": 0.9}, {"digest": "abc"})
    recorder.end("FINISHED", {}, [])
    real = backlog.write_state

    def killed_at_the_end(folder: Path, state: backlog.RunState) -> None:
        if state.files:
            raise SystemExit
        real(folder, state)

    with monkeypatch.context() as patch:
        patch.setattr(backlog, "write_state", killed_at_the_end)
        with pytest.raises(SystemExit):
            tracking.drain()
    tracking.drain()
    assert len(runs()) == 3
    stage = only(kind="stage")
    assert len(tracking.client().get_metric_history(stage.info.run_id, "loss")) == 1


def test_a_line_still_being_written_waits(recorder: Recorder) -> None:
    recorder.log({"loss": 2.0}, 1)
    with recorder.path.open("a") as file:
        file.write('{"step": 2, "time": 1.0, "met')
    assert tracking.drain() == 2
    with recorder.path.open("a") as file:
        file.write('rics": {"loss": NaN}}\n')
    assert tracking.drain() == 1


def dead(recorder: Recorder) -> None:
    """As if the process that wrote this record had been killed."""
    first, *rest = recorder.path.read_text("utf-8").splitlines(keepends=True)
    gone = json.loads(first) | {"pid": os.getpid(), "start": 1}
    recorder.path.write_text(json.dumps(gone) + "\n" + "".join(rest), "utf-8")


@pytest.mark.hardening("A4", "kill -9 of a stage and its driver")
def test_a_killed_stage_and_its_run_are_closed(recorder: Recorder) -> None:
    recorder.log({"loss": 2.0}, 1)
    tracking.begin(RUN)
    tracking.drain()
    dead(recorder)
    Path(record.ROOT, RUN, backlog.DRIVER).write_text(
        json.dumps({"pid": os.getpid(), "start": 1, "host": socket.gethostname()}), "utf-8"
    )
    tracking.drain()
    assert {run.info.status for run in runs()} == {"KILLED"}
    assert tracking.drain() == 0 and backlog.pending(record.ROOT, registry.address()) == []


def test_a_run_of_a_dvc_process_that_is_gone_is_closed(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_RUN", f"dvc-{os.getpid()}-1")
    Recorder("ingest", None, {}).end("FAILED", {}, [])
    tracking.drain()
    assert only(kind="pipeline").info.status == "FAILED"


def test_a_stage_that_ran_again_is_a_run_of_its_own(recorder: Recorder) -> None:
    recorder.log({"loss": 2.0}, 1)
    tracking.drain()
    time.sleep(0.01)
    again = Recorder("make", "base", {"seed": 0})
    again.end("FINISHED", {}, [])
    tracking.drain()
    # The same process wrote both here, so only the time of the first line tells them apart.
    assert sorted(run.info.status for run in runs(kind="stage")) in (["FINISHED", "KILLED"], ["FINISHED"])


def git(*words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_names_what_it_started_from_however_late_it_is_tracked(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "one")
    monkeypatch.setenv("TEMPER_RUN", f"dvc-{os.getpid()}-1")  # its driver is gone when it is tracked
    Path("dvc.lock").write_text("first", "utf-8")
    commit, params, lock = git("rev-parse", "HEAD"), Path("params.yaml").read_bytes(), sha256_file(Path("dvc.lock"))
    Recorder("ingest", None, {}).end("FINISHED", {}, [])

    Path("params.yaml").write_bytes(params.replace(b"name: digits", b"name: others"))
    Path("dvc.lock").write_text("second", "utf-8")
    git("commit", "-qam", "two")
    Path("params.yaml").write_bytes(Path("params.yaml").read_bytes() + b"# dirty\n")
    Recorder("validate", None, {}).end("FINISHED", {}, [])  # later, but of the same pipeline run
    tracking.drain()
    parent = only(kind="pipeline")  # looks into the experiment `digits`
    assert parent.info.status == "FINISHED"
    tags = {"git.commit": commit, "git.dirty": "false", "dvc_lock.sha256": lock}
    tags["params.sha256"] = hashlib.sha256(params).hexdigest()
    assert {name: parent.data.tags[name] for name in tags} == tags
    copy = tracking.client().download_artifacts(parent.info.run_id, "params.yaml", str(tmp_path))
    assert Path(copy).read_bytes() == params


def test_a_live_driver_closes_with_its_dvc_lock(recorder: Recorder) -> None:
    recorder.end("FINISHED", {}, [])
    Path("dvc.lock").write_text("written by the stages", "utf-8")
    tracking.drain()
    assert "dvc_lock.sha256" not in only(kind="pipeline").data.tags
    tracking.close(RUN, "FINISHED")
    assert only(kind="pipeline").data.tags["dvc_lock.sha256"] == sha256_file(Path("dvc.lock"))


def test_a_cell_from_the_cache_names_the_run_that_made_it(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder.cell("base/fp32", {}, {}, {"digest": "abc"})
    tracking.drain()
    monkeypatch.setenv("TEMPER_RUN", "flow-2")
    Recorder("compare", None, {}).cell("base/fp32", {}, {}, {"digest": "abc"})
    tracking.drain()
    first, second = only(cell="base/fp32", pipeline_run=RUN), only(cell="base/fp32", pipeline_run="flow-2")
    assert "made_by" not in first.data.tags
    assert second.data.tags["made_by"] == first.info.run_id


def test_followed_curves_show_while_the_stage_runs(recorder: Recorder) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=tracking.follow, args=(stop, 0.1))
    thread.start()
    recorder.log({"loss": 2.0}, 1)
    deadline = time.monotonic() + 30
    while not runs(kind="stage") and time.monotonic() < deadline:
        time.sleep(0.1)
    shown = len(runs(kind="stage"))
    stop.set()
    thread.join(30)
    assert shown == 1 and not thread.is_alive()


@pytest.mark.hardening("B10", "a second process while the database is made")
def test_one_makes_the_store_and_others_wait_and_use_it(workspace: Path, empty_store: Path) -> None:
    with tracking.lock("create"):
        thread = threading.Thread(target=tracking.client)
        thread.start()
        thread.join(3)
        assert thread.is_alive() and not Path("mlruns/mlflow.db").exists()
        shutil.copy(empty_store, "mlruns/mlflow.db")
        made = Path("mlruns/mlflow.db").stat().st_ino
    thread.join(60)
    assert Path("mlruns/mlflow.db").stat().st_ino == made
    assert sqlite3.connect("mlruns/mlflow.db").execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert tracking.client().get_experiment_by_name("Default") is not None


@pytest.mark.hardening("D22", "nobody listens at the tracking server's address")
def test_a_dead_server_is_said_soon(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(TemperError, match=r"127\.0\.0\.1:9 does not answer.*unset MLFLOW_TRACKING_URI"):
        tracking.client()
    with pytest.raises(TemperError, match="does not answer"):
        registry.champion("digits")
    assert time.monotonic() - started < 15


@pytest.mark.hardening("C20", "the tracking database is no database")
def test_a_broken_database_is_said(workspace: Path) -> None:
    Path("mlruns").mkdir()
    Path("mlruns/mlflow.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(TemperError, match="no database that can be read"):
        registry.champion("digits")
    Recorder("make", "base", {}).log({"loss": 1.0}, 1)
    with pytest.raises(TemperError, match=r"mlflow\.db"):
        tracking.drain()


@pytest.mark.parametrize("wrong", ["mlruns", "file:///tmp/x", "sqlite:///mlflow.db", "postgresql://db/x", "http://"])
def test_addresses_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", wrong)
    with pytest.raises(TemperError, match="MLFLOW_TRACKING_URI"):
        registry.address()


def test_a_model_asks_for_onnxruntime_whichever_package_brought_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def version(package: str) -> str:
        if package == "onnxruntime":
            raise PackageNotFoundError(package)
        return {"onnxruntime-gpu": "1.31.1", "torch": "2.13.0+cpu"}[package]

    monkeypatch.setattr(versions, "version", version)
    assert [versions._pinned(name) for name in ("onnxruntime", "torch")] == ["onnxruntime==1.31.1", "torch==2.13.0"]
