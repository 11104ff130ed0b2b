"""A cell that cannot run is one failed cell, with what its own process last said."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components import footprint

ROOT = Path(__file__).parents[2]
IMAGES = {"image": np.zeros((4, 8, 8), np.float32)}


def test_a_failed_footprint_keeps_the_traceback(
    workspace: Path, make_build: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    make_build("base", "fp32")
    build = Path("work/builds/base/fp32")
    good = footprint.fresh(build, 1, IMAGES, [1, 4], 2)
    assert (good["status"], good["loads"]) == ("ok", 2)
    assert 0 < good["load_low_ms"] <= good["load_ms"] <= good["load_high_ms"]
    (build / "model.onnx").write_bytes(b"broken")
    said = footprint.fresh(build, 1, IMAGES, [1, 4], 2)
    assert said["status"] == "failed" and "dvc repro" not in said["reason"]
    assert "Traceback" in said["detail"] and said["detail"].strip().splitlines()[-1][:100] in said["reason"]


def test_a_killed_footprint_says_so(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = Path("killed")
    killed.write_text(f"#!{sys.executable}\nimport os\nos.kill(os.getpid(), {int(signal.SIGKILL)})\n", "utf-8")
    killed.chmod(0o755)
    monkeypatch.setattr(footprint.sys, "executable", os.fspath(killed.absolute()))
    said = footprint.fresh(Path("build"), 1, IMAGES, [1], 1)
    assert said == {"status": "failed", "reason": "in a process of its own: exit code -9", "detail": ""}
