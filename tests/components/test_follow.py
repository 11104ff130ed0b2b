"""Under plain `dvc repro` a process of its own tracks what stages record, and closes the run when dvc is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from components import record, tracking

ROOT = Path(__file__).parents[2]
STAGE = """
import time
from components import record, stage
recorder = record.Recorder("make", "base", {"seed": 0})
stage.follow_run()
recorder.log({"loss": 1.0}, 1)
print("recorded", flush=True)
time.sleep(60)
"""


def statuses() -> dict[str, str]:
    client = tracking.client()
    experiment = client.get_experiment_by_name("digits")
    if experiment is None:
        return {}
    return {run.data.tags["kind"]: run.info.status for run in client.search_runs([experiment.experiment_id])}


def test_killing_dvc_closes_its_run_and_leaves_no_process(tracked: Path) -> None:
    # What counts as dvc is a command of that name.
    Path("dvc").write_text(f"#!/bin/sh\n{sys.executable} stage.py & echo $!; wait\n", "utf-8")
    Path("stage.py").write_text(STAGE, "utf-8")
    Path("dvc").chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([str(tracked / "dvc")], env=env, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    stage = int(driver.stdout.readline())
    assert driver.stdout.readline() == "recorded\n"
    deadline = time.monotonic() + 60
    while statuses() != {"pipeline": "RUNNING", "stage": "RUNNING"} and time.monotonic() < deadline:
        time.sleep(0.2)
    assert statuses() == {"pipeline": "RUNNING", "stage": "RUNNING"}, "shown while it runs"

    os.kill(stage, signal.SIGKILL)
    driver.kill()
    driver.wait()
    lock = (record.ROOT.parent / "follow.lock").open("w")
    while time.monotonic() < deadline:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.2)
    else:
        raise AssertionError("the follower is still there")
    assert statuses() == {"pipeline": "KILLED", "stage": "KILLED"}


def test_a_process_that_is_dead_but_not_reaped_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert record.process_start(process.pid) is not None
    process.kill()
    deadline = time.monotonic() + 10
    while record.process_start(process.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    gone = record.process_start(process.pid)
    process.communicate()
    assert gone is None
