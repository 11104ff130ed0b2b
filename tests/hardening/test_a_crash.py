"""Stopped and killed: what must hold besides what tests/flows, tests/components hold where their code is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import debris
from tests.hardening.killed import Killed
from tests.workspace import SMALL

ROOT = Path(__file__).resolve().parents[2]
DEAF = "end_with_driver()\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.mark.hardening("A7", "SIGTERM, though a stage is deaf to it; and a second one")
@pytest.mark.parametrize("signals", [1, 2])
def test_a_run_ends_in_ten_seconds_and_at_once_when_told_again(served: Any, signals: int) -> None:
    served.write("work.py", (served.path / "work.py").read_text().replace("end_with_driver()\n", DEAF, 1))
    served.write("slow-split")
    process = served.start()
    served.until_ran("split")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    if signals == 2:  # and on: two that come before the first is seen are one
        while process.poll() is None and time.monotonic() - began < 30:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
    process.communicate(timeout=30)
    took = time.monotonic() - began
    assert process.returncode in (143, -15)  # the same to a shell: it was told once more while it ended
    limit = 10 if signals == 1 else 4  # a deaf stage is given 5 s
    assert took < limit, took
    assert served.until_quiet() == []
    assert not debris.is_held(served.path / debris.LOCKS[0])


@pytest.mark.drill
@pytest.mark.hardening("A7", "SIGTERM in a training")
def test_a_stopped_training_is_tracked_as_killed_in_ten_seconds_and_its_locks_are_free(
    served: Any, tmp_path_factory: pytest.TempPathFactory, sound: Callable[[Path], None]
) -> None:
    address, password = served.env["PREFECT_API_URL"], served.env["PREFECT_API_AUTH_STRING"]
    folder = tmp_path_factory.mktemp("stopped") / "w"
    killed = Killed(folder, {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": password})
    fit = SMALL["variants"]["base"]["fit"] | {"epochs": 10_000, "patience": 10_000}
    killed.workspace.write_params({"variants": {"base": SMALL["variants"]["base"] | {"fit": fit}}})
    process = killed.start()
    assert killed.until_begun(process, "make@base")
    until(lambda: states(folder).get("make@base") == "RUNNING", 60)
    began = time.monotonic()
    process.terminate()
    said, _ = process.communicate(timeout=60)
    took = time.monotonic() - began
    assert process.returncode == 143 and "stopped by SIGTERM" in said, said[-2000:]
    assert killed.until_quiet() == [] and not debris.is_held(folder / debris.LOCKS[0])
    assert states(folder)["make@base"] == "KILLED" and "RUNNING" not in states(folder).values(), states(folder)
    assert took < 10, took
    sound(folder)


def states(folder: Path) -> dict[str, str]:
    """{name: status} of the tracked runs."""
    file = folder / "mlruns/mlflow.db"
    if not file.exists():
        return {}
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as store:
        return dict(store.execute("SELECT name, status FROM runs").fetchall())


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


WRITES = """
import os, sys
from pathlib import Path
from components.stage import write_atomic
path, n = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    n += 1
    write_atomic(path, f"{n}:" + "x" * 2_000_000 + f":{n}")
"""


@pytest.mark.hardening("A2", "kill -9 while a file is written")
def test_no_half_file_is_ever_seen_under_its_name_and_what_is_left_is_removed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path, times = tmp_path / ".temper/state.json", 20
    for moment in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES, str(path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        assert process.stdout and process.stdout.readline()
        time.sleep(0.005 * moment)
        process.kill()
        process.communicate()
        if path.exists():
            first, content, last = path.read_text("utf-8").split(":")
            assert first == last and len(content) == 2_000_000
    debris.clear(tmp_path, set())
    assert {found.name for found in path.parent.iterdir()} <= {"state.json"}
    record_property("times", times)


REGISTERS = """
import os, signal
from components import tracking, versions
experiment = tracking.Experiment(tracking.client(), "digits")
from components import record
experiment.create("promote", {"kind": "promote", **record.process()}, None)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.hardening("A4", "kill -9 while a version is registered")
def test_the_run_of_a_killed_registration_is_closed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components import tracking

    for name in ("MLFLOW_TRACKING_URI", "TEMPER_ROOT", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    ours = ("MLFLOW_", "_MLFLOW_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run([sys.executable, "-c", REGISTERS], env=clean | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -9
    experiment = tracking.Experiment(tracking.client(), "digits")
    (dead,) = experiment.dead("promote")
    assert states(tmp_path) == {"promote": "RUNNING"}
    experiment.end(dead, "KILLED", None)
    assert experiment.dead("promote") == []


@pytest.mark.hardening("A6", "the newest checkpoint is cut off, its JSON is damaged or names nothing")
@pytest.mark.parametrize("harm", ["cut", "flipped", "json", "gone", "both"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    import torch

    from components import resume

    module = torch.nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    for epoch in (1, 2):
        module(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        resume.save(tmp_path, module, optimizer, {}, {"epoch": epoch})
    older, newest = tmp_path / "000001.safetensors", tmp_path / "000002.safetensors"
    for path in (newest, older) if harm == "both" else (newest,):
        content = path.read_bytes()
        if harm in ("cut", "both"):
            path.write_bytes(content[:-10])
        elif harm == "flipped":
            path.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
        elif harm == "json":
            path.with_suffix(".json").write_text('{"sha256": "', "utf-8")
        else:
            path.unlink()
    with caplog.at_level("WARNING"):
        found = resume.restore(tmp_path, module, optimizer, {})
    assert found == (None if harm == "both" else {"epoch": 1})
    assert "000002.safetensors is damaged and passed over" in caplog.text


@pytest.mark.hardening("A4", "kill -9 while the driver names itself in its records")
def test_a_record_of_a_driver_is_whole_or_not_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components import backlog

    run = tmp_path / ".temper/runs/run-1"
    shutil.copy(root / "params.yaml", tmp_path)

    def die(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(SystemExit):
        backlog.begin(run)
    assert not (run / backlog.DRIVER).exists()
    monkeypatch.undo()
    backlog.begin(run)
    assert json.loads((run / backlog.DRIVER).read_text("utf-8"))["pid"] == os.getpid()
