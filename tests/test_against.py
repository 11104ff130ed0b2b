"""benchmarks/against_trainers.py and against_olive.py: command lines and tables, at a tiny size, without what they
would install."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import assemble, params
from components.data import Rows
from tests.components import texts


def script(root: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, root / f"benchmarks/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def searched() -> Iterator[None]:
    """Scripts put their checkout in front of what is searched: they must not outlive the test."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.mark.parametrize("name", ["against_trainers", "against_olive"])
def test_help_says_how(root: Path, name: str) -> None:
    command = [sys.executable, str(root / f"benchmarks/{name}.py"), "--help"]
    assert "--threads" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write(rows: Rows, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"input.{name}": x.tolist() for name, x in rows.inputs.items()}
    pq.write_table(pa.table({"row_id": rows.row_id.tolist(), **columns, "label": rows.labels.tolist()}), file)


def test_ways_of_training_do_the_same_work(root: Path, tmp_path: Path) -> None:
    one, against = script(root, "one_training"), script(root, "against_trainers")
    for name in ("train", "validation"):
        write(texts.rows(name), tmp_path / f"{name}.parquet")
    texts.SPEC.write(tmp_path)
    made = texts.model()
    assemble.save(made, tmp_path / "init")
    fit = texts.FIT | {"epochs": 2, "batch_size": 16}
    job = {"fit": params.Fit.model_validate(fit).model_dump(), "rows": 160, "threads": 1, "seed": 0, "workers": 0}
    job |= {"data": str(tmp_path), "model": str(tmp_path / "init"), "out": str(tmp_path / "out")}
    ready: list[str] = []
    told = {
        "temper": one.train(job | {"way": "temper", "tuned": False}, lambda: ready.append("temper")),
        "trainer, tuned": one.train(job | {"way": "trainer", "tuned": True}, lambda: ready.append("trainer")),
    }
    assert ready == ["temper", "trainer"]
    assert [run["steps"] for run in told.values()] == [20, 20]
    losses = [run["validation_loss"] for run in told.values()]
    assert abs(losses[0] - losses[1]) < 0.1, losses
    speeds = {"temper": 120.0, "trainer, tuned": 100.0}
    runs = {way: [{**run, "samples_per_s": speeds[way]}] for way, run in told.items()}
    kept = {"case": "news", "precision": "fp32", "threads": 1, "clock": "wall", "rows": 160, "runs": runs}
    (tmp_path / "against_trainers.runs.json").write_text(json.dumps({"any": kept}), "utf-8")
    page = against.table(tmp_path)
    assert "| news | fp32 | 1 | wall | trainer, tuned | 100.00 | 1.20 | 1.20 | 1.20 | 1 | 20 |" in page
    assert "news fp32, 1 thread(s), wall: 1.20 times the best tuned, trainer, tuned" in page
    assert json.loads((tmp_path / "against_trainers.json").read_text("utf-8"))["lines"][0]["way"] == "temper"


def test_every_olive_workflow_is_a_config_of_its_own(root: Path, tmp_path: Path) -> None:
    olive = script(root, "against_olive")
    for name in olive.WORKFLOWS:
        said = json.loads(json.dumps(olive.config(name, tmp_path / "model", tmp_path / name)))
        assert said["passes"]["quantize"]["quant_mode"] == "dynamic"
        assert said["output_dir"].startswith(str(tmp_path / name))


def test_agreement_shows_a_mask_that_is_not_looked_at(root: Path) -> None:
    olive = script(root, "against_olive")

    class Sum:
        """Class 1 where most tokens that it sees are even."""

        def __init__(self, masked: bool) -> None:
            self.masked = masked

        def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
            mask = inputs["attention_mask"] if self.masked else np.ones_like(inputs["attention_mask"])
            even = ((inputs["input_ids"] % 2 == 0) * mask).sum(1) / mask.sum(1)
            return np.stack([0.5 - even, even - 0.5], 1)

    rows = texts.rows("validation")
    assert set(olive.agreements(texts.SPEC, rows, Sum(True), Sum(True)).values()) == {1.0}
    wrong = olive.agreements(texts.SPEC, rows, Sum(True), Sum(False))
    assert wrong["left padding"] < 1
    assert wrong["worst"] < 1


def test_a_preset_is_made_as_its_stages_make_it(root: Path, tmp_path: Path) -> None:
    """With its corpus: the preset that has one."""
    sys.path[:0] = [str(root / "benchmarks")]
    made = script(root, "preset_data")
    try:
        made.make("sentiment", root, tmp_path)
    except made.Absent as absent:
        pytest.skip(str(absent))
    assert (tmp_path / "data/corpus.parquet").exists() and (tmp_path / "init/model.safetensors").exists()
