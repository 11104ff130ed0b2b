"""A tracking server that is down, dies and returns, or answers nonsense: bounded, told, nothing lost or doubled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from components import registry, rest, tracking, versions
from components.errors import TemperError
from components.record import Recorder
from tests.components.conftest import empty_store, workspace  # noqa: F401 - fixtures
from tests.components.test_move_server import address  # noqa: F401 - a real server
from tests.hardening.proxy import FAULTS, Front, front

BOUND_S = 30.0


class Awake(Thread):
    """Seconds that this process was let run: a machine may stop it for a while."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds, self.over = 0.0, Event()

    def run(self) -> None:
        last = time.monotonic()
        while not self.over.wait(0.05):
            now = time.monotonic()
            self.seconds += min(now - last, 1.0)
            last = now


@pytest.fixture
def awake() -> Iterator[Awake]:
    clock = Awake()
    clock.start()
    yield clock
    clock.over.set()


@pytest.fixture
def server(address: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:  # noqa: F811
    """The real server behind a front that can fail, named in the environment."""
    with front(address) as found:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", found.address)
        yield found


def recorded(run: str, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("TEMPER_RUN", run)
    recorder = Recorder("make", "base", {"seed": 0})
    for step in range(1, 4):
        recorder.log({"loss": 1 / step}, step)
    recorder.cell("base/fp32", {"kind": "onnx_fp32"}, {"accuracy": 0.9}, {"digest": run, "status": "ok"})
    return recorder


def holds(run: str, steps: int) -> None:
    """The tracked runs of a pipeline run: one of each, with every point once."""
    client = tracking.client()
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.pipeline_run = '{run}'")
    kinds = Counter(entry.data.tags["kind"] for entry in found)
    assert kinds == {"pipeline": 1, "stage": 1, "cell": 1}
    by_kind = {entry.data.tags["kind"]: entry for entry in found}
    curve = client.get_metric_history(by_kind["stage"].info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(step, 1 / step) for step in range(1, steps + 1)]
    assert len(client.get_metric_history(by_kind["cell"].info.run_id, "accuracy")) == 1
    assert by_kind["stage"].data.params == {"seed": "0"}
    assert {entry.info.status for entry in found} == {"FINISHED"}


@pytest.mark.hardening("D22", "the tracking server is down when a run starts")
@pytest.mark.parametrize("fault", ["", "silent", "500", "429", "html"])
def test_a_server_that_is_down_at_the_start_is_told_in_time(
    server: Front, fault: str, awake: Awake, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 1 + len(rest.PAUSES_S)
    assert tries * rest.TIMEOUT_S + sum(rest.PAUSES_S) < BOUND_S
    monkeypatch.setattr(rest, "TIMEOUT_S", 1.0)  # a machine that is frozen for a while shall not matter
    server.fault = fault
    if not fault:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for ask in (lambda: registry.champion("digits"), tracking.client):
        started = awake.seconds
        with pytest.raises(rest.Unanswered, match=r"tracking server http://127.0.0.1:\d+.*unset MLFLOW_TRACKING_URI"):
            ask()
        assert awake.seconds - started < BOUND_S


@pytest.mark.hardening("D24", "a server without MLflow says 404: that is not `there is no champion`")
def test_a_stranger_who_says_404_is_not_taken_for_an_empty_registry(server: Front) -> None:
    assert registry.champion("nobody") is None
    server.behind = f"{server.behind}/elsewhere"
    with pytest.raises(TemperError, match="was answered with 404"):
        rest.ask(registry.address(), "elsewhere", "", {})


@pytest.mark.hardening("D24", "each fault in turn, at every request of a run that is tracked")
@pytest.mark.parametrize("fault", list(FAULTS))
def test_every_request_may_fail_once_and_nothing_is_lost_or_doubled(
    server: Front, fault: str, awake: Awake, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    run = f"run-{fault.replace(' ', '-')}"
    recorder = recorded(run, monkeypatch)
    recorder.end("FINISHED", {}, [])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(rest, "TIMEOUT_S", 1.0)
    tried, passed, went_well = 0, 0, False
    server.fault = fault
    while not went_well:
        server.seen.clear()
        passed, server.left = tried, None
        server.takes = lambda path, nth=tried: _nth(server, path, nth)  # type: ignore[method-assign]
        started = awake.seconds
        try:
            tracking.drain()
            went_well = len(server.seen) <= tried
        except rest.Unanswered as error:
            assert server.address in str(error) and "<html>" not in str(error)
        assert awake.seconds - started < BOUND_S
        tried += 1
    assert passed > 4, "requests of a run"
    record_property("times", passed)
    del server.takes
    server.fault = ""
    tracking.close(run, "FINISHED")
    holds(run, 3)


def _nth(server: Front, path: str, nth: int) -> str:
    server.seen.append(path)
    return server.fault if len(server.seen) == nth + 1 else ""


@pytest.mark.hardening("D23", "the server dies while training is followed, and returns")
def test_a_server_that_dies_in_the_middle_and_returns_has_the_whole_curve_once(
    server: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stop = "run-middle", Event()
    recorder = recorded(run, monkeypatch)
    follower = Thread(target=tracking.follow, args=(stop, 0.2))
    follower.start()
    deadline = time.monotonic() + 60
    while not any("log-batch" in path for path in list(server.seen)) and time.monotonic() < deadline:
        time.sleep(0.05)
    server.fault = "closed"
    for step in range(4, 30):
        recorder.log({"loss": 1 / step}, step)
        time.sleep(0.02)
    assert follower.is_alive() and server.failed
    server.fault = ""
    recorder.end("FINISHED", {}, [])
    stop.set()
    follower.join(BOUND_S)
    tracking.close(run, "FINISHED")
    holds(run, 29)


@pytest.mark.hardening("D24", "the answer to the request that makes a version is lost")
@pytest.mark.parametrize("fault", ["500 after", "half", "closed"])
def test_no_version_is_made_twice(server: Front, fault: str) -> None:
    client = tracking.client()
    name = f"model-{fault.replace(' ', '-')}"
    client.create_registered_model(name)
    run = client.create_run("0").info
    server.fault, server.only = fault, "model-versions/create"

    def make() -> int:
        if known := registry.with_digest(name, "abc"):
            return known.version
        with tracking.plainly():
            made = versions.client().create_model_version(
                name, f"{run.artifact_uri}/none", run.run_id, {"digest": "abc"}
            )
        return int(made.version)

    server.left = 1
    assert tracking.patiently(make) == 1
    assert server.failed == 1 and [entry.version for entry in registry.versions(name)] == [1]
