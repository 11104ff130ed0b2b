"""One pipeline run, driven for real: DVC, Prefect, processes and signals, on light stages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from typing import Any

import pytest

EVERY = ["join", "make@a", "make@b", "make@c", "observe", "promote", "split"]


def flow_runs(prefect: str, run: str) -> list[dict[str, Any]]:
    """What the standing server knows of a pipeline run."""
    address, password = prefect.split()
    request = urllib.request.Request(
        f"{address}/flow_runs/filter",
        data=json.dumps({"flow_runs": {"name": {"any_": [run]}}}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(password.encode()).decode(),
        },
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        found: list[dict[str, Any]] = json.load(reply)
    return found


def test_same_lock_as_plain_repro_and_second_run_does_nothing(
    served: Any, prefect: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = tmp_path_factory.mktemp("plain") / "copy"
    shutil.copytree(served.path, plain)

    code, outcome, err = served.drive()
    assert (code, err) == (0, "")
    assert served.begun() == EVERY
    type(served)(plain, served.env).dvc("repro")
    assert (served.path / "dvc.lock").read_bytes() == (plain / "dvc.lock").read_bytes()
    assert [run["state_name"] for run in flow_runs(prefect, outcome["run"])] == ["Completed"]

    code, outcome, _ = served.drive()
    assert code == 0
    assert served.begun() == ["observe", "promote"]
    assert (served.path / "dvc.lock").read_bytes() == (plain / "dvc.lock").read_bytes()

    shutil.rmtree(served.path / "work")  # all of it is in the run cache
    (served.path / "dvc.lock").unlink()
    code, outcome, _ = served.drive()
    assert code == 0
    assert served.begun() == ["observe", "promote"]
    assert outcome["done"]["make@b"] == "cached"


@pytest.mark.hardening("A1", "a stage fails")
def test_a_failure_costs_only_what_builds_on_it(served: Any, prefect: str) -> None:
    served.write("fail-make@b")
    code, outcome, _ = served.drive()
    assert code == 3  # the stage's own
    assert "a planted fault" in outcome["failed"]["make@b"]
    assert outcome["skipped"] == ["join", "promote"]
    assert served.begun() == ["make@a", "make@b", "make@c", "observe", "split"]
    assert [run["state_name"] for run in flow_runs(prefect, outcome["run"])] == ["Failed"]
    log = served.path / ".temper/logs" / outcome["run"] / "make@b.log"
    assert "a planted fault" in log.read_text()

    (served.path / "fail-make@b").unlink()
    code, outcome, _ = served.drive()
    assert code == 0
    assert served.begun() == ["join", "make@b", "observe", "promote"]


def test_what_observe_sees_anew_wakes_what_depends_on_it_and_its_failure_is_told(served: Any) -> None:
    assert served.drive()[0] == 0
    served.begun()
    served.write("work.py", (served.path / "work.py").read_text().replace("write_text(name)", "write_text(name + '2')"))
    served.write("dvc.yaml", (served.path / "dvc.yaml").read_text().replace("[work.py, work/", "[work/"))
    assert served.drive()[0] == 0
    assert served.begun() == EVERY
    assert served.dvc("status", "split", "make@a", "join").strip() == "Data and pipelines are up to date."
    served.write("fail-observe")
    code, outcome, _ = served.drive()
    assert code == 3
    assert outcome["failed"]["observe"].startswith("a planted fault"), "the stage is named by who tells it"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two trainings at once want two cores")
def test_independent_stages_run_at_once(served: Any) -> None:
    for name in ("make@a", "make@b"):
        served.write(f"slow-{name}")
    process = served.start()
    served.until_ran("make@a", "make@b")  # both sleep for a minute: neither can have ended
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.hardening("A7", "SIGINT, SIGTERM while a stage runs")
def test_a_signal_ends_the_stages(served: Any, number: int, code: int) -> None:
    served.write("slow-split")
    process = served.start()
    served.until_ran("split")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert served.until_quiet() == []


@pytest.mark.hardening("A3", "kill -9 of the driver alone, beside a standing server")
@pytest.mark.hardening("A4", "kill -9, then the next run")
def test_kill_9_leaves_nothing_behind_and_the_next_run_goes_on(
    served: Any, prefect: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = tmp_path_factory.mktemp("plain") / "copy"
    shutil.copytree(served.path, plain)
    served.write("slow-make@b")
    process = served.start()
    served.until_ran("make@b")
    process.kill()
    process.communicate()
    assert served.until_quiet() == []
    (log,) = served.path.glob(".temper/logs/*")
    (killed,) = flow_runs(prefect, log.name)
    assert killed["state_name"] == "Running"

    (served.path / "slow-make@b").unlink()
    code, outcome, err = served.drive()
    assert code == 0, (outcome, err)
    (killed,) = flow_runs(prefect, log.name)
    assert (killed["state_name"], "was killed" in killed["state"]["message"]) == ("Crashed", True)
    type(served)(plain, served.env).dvc("repro")
    assert (served.path / "dvc.lock").read_bytes() == (plain / "dvc.lock").read_bytes()


@pytest.mark.hardening("A3", "kill -9 of the driver alone, with its own server")
def test_its_own_server_is_quiet_and_dies_with_the_driver(workspace: Any) -> None:
    code, outcome, err = workspace.drive()
    assert (code, err) == (0, "")
    log = workspace.path / ".temper/logs" / outcome["run"] / "prefect.log"
    assert log.read_text() == ""
    assert workspace.until_quiet(0) == []

    code, _, _ = workspace.drive()
    assert code == 0
    assert len(list((workspace.path / ".temper/logs").glob("*/prefect.log"))) == 1  # a no-op starts no server

    workspace.write("params.yaml", (workspace.path / "params.yaml").read_text().replace("n: 2", "n: 9"))
    workspace.write("slow-make@b")
    workspace.begun()
    process = workspace.start()
    workspace.until_ran("make@b")
    assert len(workspace.processes()) > 3  # driver, server, dvc, stage
    process.kill()
    process.communicate()
    assert workspace.until_quiet() == []


@pytest.mark.parametrize(
    ("address", "said"),
    [("http://127.0.0.1:9/api", "does not answer"), ("http://127.0.0.1:{port}/api", "was answered with 401")],
)
def test_a_server_that_does_not_take_us_is_told_in_seconds(
    workspace: Any, prefect: str, address: str, said: str
) -> None:
    port = prefect.split()[0].split(":")[2].split("/")[0]
    process = workspace.start(PREFECT_API_URL=address.format(port=port), PREFECT_API_AUTH_STRING="temper:wrong")
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    last = err.strip().splitlines()[-1]
    assert address.format(port=port) in last and said in last
    assert workspace.begun() == ["observe"]


@pytest.mark.hardening("B12", "a second run while one is at work")
def test_one_driver_a_workspace(served: Any) -> None:
    served.write("slow-observe")
    first = served.start()
    served.until_ran("observe")
    second = served.start()
    _, err = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"another temper run is at work in {served.path} (pid {first.pid})" in err
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert first.returncode == 143


@pytest.mark.hardening("L64", "a stage takes longer than its limit")
def test_a_stage_that_takes_too_long_is_ended(served: Any) -> None:
    served.write("slow-make@c")
    code, outcome, _ = served.drive(timeout_s=12)  # DVC itself may take seconds to start
    assert code == 1
    assert "took over 12 s and was killed" in outcome["failed"]["make@c"]
    assert "its last lines:\nmake@c begins" in outcome["failed"]["make@c"]
    assert sorted(name for name in outcome["done"] if name.startswith("make")) == ["make@a", "make@b"]


@pytest.mark.hardening("B12", "another dvc holds an output's lock")
def test_waits_for_who_holds_a_path(served: Any) -> None:
    holder = subprocess.Popen(["sleep", "120"])
    served.write("holder", str(holder.pid))
    process = served.start()
    log = ".temper/logs/*/make@b.log"
    end = time.monotonic() + 60
    while not any("is busy" in path.read_text() for path in served.path.glob(log)) and time.monotonic() < end:
        time.sleep(0.1)
    holder.kill()  # DVC takes away the locks of the dead by itself
    holder.wait()
    out, err = process.communicate(timeout=60)
    assert "stage make@b busy" in out
    assert process.returncode == 0, out + err
