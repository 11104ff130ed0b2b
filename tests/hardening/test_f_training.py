"""A training that leaves the numbers ends at once, as FAILED, and leaves nothing that could be registered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
# The greatest rate that params take for this optimizer.
SGD = {"kind": "sgd", "lr": 1000.0, "weight_decay": 0.0, "momentum": 0.9}


def workspace(folder: Path, prepared: Path) -> Path:
    """An untrained model, data, and params that throw the weights out of every range."""
    import torch

    from components import assemble, params
    from components.data import Spec

    folder.mkdir()
    (folder / "components").symlink_to(ROOT / "components")
    raw = params.read(ROOT / "params.yaml")
    base = raw["variants"]["base"]
    base["fit"] |= {"optimizer": SGD, "clip_norm": 1e9, "epochs": 30}
    base["fit"]["schedule"] = {"kind": "constant", "warmup_share": 0.0}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({**raw, "variants": {"base": base}}, file)
    torch.manual_seed(0)
    family = params.check({**raw, "variants": {"base": base}}).init.model
    assemble.save(assemble.create(family, Spec.read(prepared)), folder / "work/models/init")
    return folder


@pytest.mark.hardening("F33", "a learning rate of 1e3 in stage make: exit code, record, output")
def test_a_training_that_diverges_fails_and_leaves_no_model(prepared: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "workspace", prepared)
    words = ["make", "base", f"data={prepared}", "parent=work/models/init", "out=work/models/base"]
    done = subprocess.run(
        [sys.executable, "-m", "components.stage", *words, "metrics=work/make.json", "curve=work/make.csv"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "TEMPER_RUN": "test"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4, done.stderr[-2000:]
    assert "make@base: " in done.stderr and "lower fit.optimizer.lr" in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "work/models/base").exists() and not (folder / "work/make.json").exists()
    record = (folder / ".temper/runs/test/make@base.jsonl").read_text("utf-8").splitlines()
    assert '"FAILED"' in record[-1] and json.loads(record[-1])
