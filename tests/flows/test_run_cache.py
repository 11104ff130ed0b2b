"""What a kill of DVC leaves in its run cache, and that the next run is not stopped by it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import dvc, run_cache

RUNS = Path(".dvc/cache/runs")


@pytest.mark.hardening("A1", "DVC is killed in its run cache: an empty folder, half a record, nothing but a name")
@pytest.mark.parametrize("left", ["an empty folder", "half a record", "no letter of one"])
def test_a_run_cache_that_a_kill_left_half_made_stops_nothing(
    workspace: Any, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    workspace.dvc("repro")
    monkeypatch.chdir(workspace.path)
    (record,) = [path for path in RUNS.rglob("*") if path.is_file() and "work.py join" in path.read_text()]
    text = record.read_text()
    record.unlink()
    if left != "an empty folder":
        (record.parent / ".a-b_c.tmp").write_text(text[: text.rindex("md5:")] if left == "half a record" else "")
    Path("dvc.lock").unlink()
    Path("work/join").unlink()
    words = [sys.executable, "-m", "dvc", "repro", "-s", "join"]
    alone = subprocess.run(words, capture_output=True, text=True, env=os.environ | workspace.env)
    stops = left == "an empty folder"  # half a record names nothing that is in the cache: DVC runs the stage
    assert alone.returncode == (255 if stops else 0), alone.stderr
    dvc.plan()
    assert not [path for path in RUNS.glob("*/*") if not any(path.iterdir())] and not list(RUNS.rglob("*.tmp"))
    workspace.dvc("repro", "-s", "join")
    assert Path("work/join").exists()
    assert Path("ran.log").read_text().count("join end") == 2


def test_what_is_whole_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_cache, "SAVED_S", 0.0)
    record = tmp_path / "ab" / "abcd" / "record"
    record.parent.mkdir(parents=True)
    record.write_text("cmd: x\n")
    run_cache.clear(tmp_path)
    run_cache.clear(tmp_path / "nowhere")
    assert record.read_text() == "cmd: x\n"
