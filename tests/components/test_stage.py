"""How a function becomes a stage: a stage of three lines, run in a workspace of its own."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components import stage

ROOT = Path(__file__).resolve().parents[2]
# Logs ten steps, resuming after what it left behind; waits at the fifth while a file `hold` is there.
COUNT = """
import time
from pathlib import Path

ARTIFACTS = ("seed",)

def run(seed, log, previous, out: Path):
    done = out / "done"
    start = int(done.read_text()) if done.exists() else 0
    for step in range(start, 10):
        log({"loss": 1 / (step + 1)}, step)
        done.write_text(str(step))
        while step == 5 and Path("hold").exists():
            time.sleep(0.05)
    (out / "previous").write_text(str(previous and (previous / "seed").read_text()))
    (out / "seed").write_text(str(seed))
    return {"steps": 10 - start}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "components").symlink_to(ROOT / "components")
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "sitecustomize.py").write_text(
        "import sys, types, importlib.machinery, importlib.util\n"
        "class Find:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'components.count':\n"
        "            return importlib.util.spec_from_file_location(name, 'count.py')\n"
        "sys.meta_path.insert(0, Find)\n"
    )
    (tmp_path / "count.py").write_text(COUNT)
    return tmp_path


def start(workspace: Path) -> subprocess.Popen[str]:
    words = ["count", "out=work/count", "metrics=work/count.json", "curve=work/count.csv"]
    return subprocess.Popen(
        # Ctrl-C reaches it, though whoever started the tests in the background ignores that.
        ["env", "--default-signal=INT", sys.executable, "-m", "components.stage", *words],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": f"{workspace}/plant:{workspace}", "TEMPER_RUN": "test"},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workspace: Path) -> None:
    process = start(workspace)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def records(workspace: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (workspace / ".temper/runs/test/count.jsonl").read_text().splitlines()]


@pytest.mark.hardening("A7", "SIGTERM to a stage in the middle")
def test_a_stopped_stage_is_killed_not_failed_and_resumes_with_its_whole_curve(workspace: Path) -> None:
    (workspace / "hold").touch()
    process = start(workspace)
    steps = workspace / "work/aside/count/steps.jsonl"
    deadline = time.monotonic() + 60
    while not (steps.exists() and steps.read_text().count("\n") == 6) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert records(workspace)[-1]["status"] == "KILLED"
    assert records(workspace)[-1]["results"] == []
    assert not (workspace / "work/count").exists()

    (workspace / "hold").unlink()
    finish(workspace)
    assert json.loads((workspace / "work/count.json").read_text()) == {"steps": 5}
    with (workspace / "work/count.csv").open(newline="") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(10))
    last = records(workspace)[-1]
    assert (last["status"], last["artifacts"], last["results"]) == (
        "FINISHED",
        ["work/count.json"],
        ["work/count/seed"],
    )
    assert not (workspace / "work/aside/count").exists()


LOSES = """
import os, signal, time
from pathlib import Path
from components import cell

def run(seed, out: Path):
    def work(target, folder):
        try:
            os.kill(os.getpid(), int(Path("number").read_text()))
            time.sleep(10)
        except BaseException as error:  # as a library does that is in the middle of an import
            if Path("swallows").exists():
                return {}
            raise AttributeError("module has no attribute 'exc'") from error
    cell.each(["fp32"], work, lambda target: "x", out, None)
"""


@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.hardening("A7", "SIGTERM, Ctrl-C to a stage in a library that takes them for a failure of its own")
def test_being_told_to_end_is_no_failure_of_a_cell(workspace: Path, number: int, swallows: bool) -> None:
    (workspace / "count.py").write_text(LOSES)
    (workspace / "number").write_text(str(int(number)))
    if swallows:
        (workspace / "swallows").touch()
    process = start(workspace)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "failed" not in said and "Traceback" not in said
    assert records(workspace)[-1]["status"] == "KILLED"
    assert not (workspace / "work/count").exists()


def test_other_params_start_anew_and_the_last_output_is_there_to_look_at(workspace: Path) -> None:
    finish(workspace)
    assert (workspace / "work/count/previous").read_text() == "None"
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(text.replace("seed: 0", "seed: 7"))
    finish(workspace)
    assert (workspace / "work/count/previous").read_text() == "0"
    assert (workspace / "work/count/seed").read_text() == "7"


@pytest.mark.hardening("A2", "killed between the two renames of an output")
def test_a_kill_while_the_output_is_put_in_place_loses_nothing(tmp_path: Path) -> None:
    aside, out = tmp_path / "aside", tmp_path / "out"
    (aside / "out").mkdir(parents=True)
    (aside / "inputs.sha256").write_text("old inputs")
    (aside / "old").mkdir()  # the old output was moved here, and then the lights went out
    (aside / "old" / "result").write_text("precious")
    stage.set_aside(aside, out, "new inputs")
    assert (out / "result").read_text() == "precious"


def test_a_missing_input_is_named(workspace: Path) -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "components.stage",
            "prepare",
            "valid=nowhere",
            "checkpoint=nowhere",
            "raw=nowhere",
            "out=work/prepared",
        ],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(workspace), "TEMPER_RUN": "test"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "prepare: valid=nowhere does not exist; run `dvc repro` to make it" in process.stderr
    assert "Traceback" not in process.stderr
