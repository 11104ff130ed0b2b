"""lora: which layers take an update, and what else is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components import assemble, params
from components.errors import TrainingError
from components.fit import answers
from components.hashing import sha256_file
from components.passes import lora
from tests.components import texts


def run(folder: Path, architecture: str = "bert", **changes: Any) -> tuple[Any, Any, Any, dict[str, float]]:
    """(base, merged, attached, figures)."""
    from dataclasses import replace

    assemble.save(texts.model(architecture), folder / "base")
    sha256 = sha256_file(folder / "base/model.safetensors")
    raw = {"from": "base", "pass": "lora", "rank": 2, "alpha": 4.0, "dropout": 0.0, "fit": texts.FIT | {"epochs": 1}}
    wanted: Any = params.check_variant(raw | changes)
    context = replace(texts.context(folder / "out"), parent_sha256=sha256)
    merged, figures = lora.run(assemble.load(folder / "base"), wanted, context)
    attached = lora.attach(assemble.load(folder / "base"), folder / "out/adapter", sha256)
    return assemble.load(folder / "base"), merged, attached, figures


@pytest.mark.parametrize(
    "changes",
    [{"dora": True}, {"rslora": True}, {"train_head": True}, {"train_head": True, "dora": True}],
    ids=["dora", "rslora", "head", "head-dora"],
)
def test_the_adapter_on_its_base_answers_as_the_merged_model(changes: dict[str, Any], tmp_path: Path) -> None:
    base, merged, attached, _ = run(tmp_path, **changes)
    rows = texts.rows("validation")
    torch.testing.assert_close(answers(attached, rows), answers(merged, rows), rtol=1e-4, atol=1e-5)
    assert not torch.equal(answers(base, rows), answers(merged, rows))
    said = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert (said["use_dora"], said["use_rslora"]) == (bool(changes.get("dora")), bool(changes.get("rslora")))
    assert set(texts.weights(merged)) == set(texts.weights(base)), "a plain model"


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])
def test_the_head_is_trained_whole_only_if_asked_for(architecture: str, tmp_path: Path) -> None:
    for name, changes in (("plain", {}), ("head", {"train_head": True})):
        base, merged, _, _ = run(
            tmp_path / name, architecture, targets=["*query*", "q_lin"][architecture == "distilbert" :][:1], **changes
        )
        before, after = texts.weights(base), texts.weights(merged)
        moved = {n for n in before if not torch.equal(before[n], after[n])}
        head = {n for n in before if "classifier" in n or "pooler" in n}
        assert moved & head == (head if changes else set())
        assert moved - head and all("query" in n or "q_lin" in n for n in moved - head)


def test_patterns_name_the_layers(tmp_path: Path) -> None:
    base, merged, _, figures = run(tmp_path, targets=["layer.1.*.query", "value"])
    before, after = texts.weights(base), texts.weights(merged)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {f"bert.encoder.layer.{n}.attention.self.value.weight" for n in range(3)}
    assert moved == layers | {"bert.encoder.layer.1.attention.self.query.weight"}
    assert figures["trained_parameters"] == 4 * 2 * (16 + 16)


def test_a_pattern_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"targets.1: 'q_lin' fits no linear layer or convolution; there are: bert"):
        run(tmp_path, targets=["query", "q_lin"])


def test_a_head_that_is_all_leaves_nothing_to_adapt(spec: Any, tmp_path: Path) -> None:
    single = assemble.create(params.Perceptron(family="perceptron"), spec)
    with pytest.raises(TrainingError, match=r"family perceptron: nothing is left .* take train_head out"):
        lora._targets(single, None, lora._head(single))
