"""prune of text classifiers: heads, widths and layers go, and what is left is a plain smaller model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components import assemble, narrowing, params
from components.fit import answers
from components.model import Model
from components.passes import prune
from tests.components import texts

SHARES: dict[str, dict[str, Any]] = {
    "feed_forward": {"feed_forward": 0.5},
    "layers": {"layers": 0.5},
    "hidden": {"hidden": 0.25},
    "heads": {"heads": 0.5},
    "all": {"heads": 0.5, "feed_forward": 0.75, "hidden": 0.75, "layers": 0.5},
}
LEFT: dict[str, dict[str, int]] = {
    "feed_forward": {"feed_forward": 16},
    "layers": {"layers": 2},
    "hidden": {"hidden": 24},
    "heads": {"heads": 2, "hidden": 16},
    "all": {"heads": 2, "feed_forward": 8, "hidden": 8, "layers": 2},
}
ARCHITECTURES = ["bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"]
SIZES = {"layers": 4, "heads": 4, "hidden": 32, "feed_forward": 32}


def made(architecture: str = "bert", **changes: Any) -> Model:
    from components.families.bert import NARROWABLE

    config = {key: SIZES[size] for size, key in NARROWABLE[architecture][0].items()}
    if architecture == "electra":
        config["embedding_size"] = 12
    config["initializer_range"] = 0.3
    family = {"family": "bert", "architecture": architecture, "config": config | changes}
    torch.manual_seed(0)
    model = assemble.create(params.check_family(family), texts.SPEC)
    model.module.eval()
    return model


def wanted(**changes: Any) -> Any:
    raw = {"from": "base", "pass": "prune", "round_to": 4, "fit": texts.FIT | {"epochs": 1}}
    return params.check_variant(raw | changes)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_smaller_and_reloads_by_transformers_alone(architecture: str, share: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    before = made(architecture)
    assemble.save(before, tmp_path / "before")
    after, figures = prune.run(before, wanted(**SHARES[share]), texts.context(tmp_path, count=64))
    assemble.save(after, tmp_path / "after")
    assert after.family.encoder(after.module).sizes == SIZES | LEFT[share]  # type: ignore[attr-defined]
    assert figures["parameters_kept"] == after.parameters() / before.parameters() < 0.95
    small, large = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("after", "before"))
    assert small < 0.95 * large

    rows = texts.rows("validation", 40)
    expected = answers(after, rows)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "after").eval()
    inputs = after.task.preprocess({name: torch.from_numpy(x) for name, x in rows.inputs.items()}, after.spec)
    keys = ("input_ids", "attention_mask")
    with torch.no_grad():
        torch.testing.assert_close(plain(**{key: inputs[key] for key in keys}).logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(answers(assemble.load(tmp_path / "after"), rows), expected)
    again = assemble.create(after.params, after.spec).module.state_dict()
    assert {k: x.shape for k, x in again.items()} == {k: x.shape for k, x in after.module.state_dict().items()}


def same(before: Model, after: Model) -> None:
    rows = texts.rows("validation", 40)
    torch.testing.assert_close(answers(after, rows), answers(before, rows), rtol=1e-4, atol=1e-5)


def outside(model: Model) -> list[Any]:
    """Linear layers that are in no block, the classifier last."""
    blocks = model.family.encoder(model.module).blocks  # type: ignore[attr-defined]
    parts = model.module.named_modules()
    return [x for name, x in parts if isinstance(x, torch.nn.Linear) and not name.startswith(blocks)]


def layer(model: Model, number: int, part: str) -> Any:
    encoder = model.family.encoder(model.module)  # type: ignore[attr-defined]
    return model.module.get_submodule(f"{encoder.blocks}.{number}.{getattr(encoder, part)}")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_feed_forward_channels_that_give_nothing_are_those_that_go(architecture: str, tmp_path: Path) -> None:
    model = made(architecture)
    for number in range(SIZES["layers"]):
        with torch.no_grad():
            layer(model, number, "returned").weight[:, number % 2 :: 2] = 0  # others in each layer
    same(model, narrowing.narrow(model, wanted(feed_forward=0.5), texts.context(tmp_path)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_that_do_nothing_are_those_that_go(architecture: str, tmp_path: Path) -> None:
    model = made(architecture)
    with torch.no_grad():
        for number in (1, 3):  # what was normalized before stays as it is
            for part in ("attended", "returned"):
                layer(model, number, part).weight.zero_()
                layer(model, number, part).bias.zero_()
        outside(model)[-1].weight *= 20  # sure of its answers, which are the labels: any other answer is worse
    rows = texts.rows("train")
    rows = replace(rows, labels=answers(model, rows).argmax(1).numpy())
    context = replace(texts.context(tmp_path), rows=lambda split: rows)
    after = narrowing.narrow(model, wanted(layers=0.5), context)
    same(model, after)
    assert torch.equal(layer(after, 1, "widened").weight, layer(model, 2, "widened").weight)


def halved(model: Model, idle: dict[str, list[int]]) -> Model:
    """Hidden channels 16 to 31 the same as 0 to 15, and read by none: LayerNorm is the same on one half.

    `idle`: of queries and keys, and of values, the channels that do nothing.
    """
    from torch import nn

    encoder = model.family.encoder(model.module)  # type: ignore[attr-defined]
    pooling, classifier = outside(model)[-2:]
    with torch.no_grad():
        for name, module in model.module.named_modules():
            part = name.removeprefix(encoder.blocks).lstrip(".").partition(".")[2]
            if isinstance(module, nn.Embedding) and module.embedding_dim == 32:
                module.weight[:, 16:] = module.weight[:, :16]
            if part in (encoder.attended, encoder.returned) or name.endswith("embeddings_project"):
                module.weight[16:], module.bias[16:] = module.weight[:16], module.bias[:16]  # type: ignore
            if part in (encoder.query, encoder.key, encoder.value, encoder.widened) or module is pooling:
                module.weight[:, 16:] = 0  # type: ignore
            if part in (encoder.query, encoder.key):
                module.weight[idle["matched"]], module.bias[idle["matched"]] = 0.0, 0.0  # type: ignore
            if part == encoder.attended:
                module.weight[:, idle["carried"]] = 0  # type: ignore
        classifier.weight[:, 16:] = 0
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("heads", [2, 4])
def test_heads_and_channels_that_do_nothing_change_no_answer(architecture: str, heads: int) -> None:
    """Heads 1 and 3 whole, or half the channels of each of 4 heads, others of queries and of values."""
    whole = [*range(8, 16), *range(24, 32)]
    idle = {"matched": whole, "carried": whole}
    if heads == 4:
        idle = {"matched": [i for i in range(32) if i % 8 < 4], "carried": [i for i in range(32) if i % 2]}
    model = halved(made(architecture), idle)
    rest = {key: torch.tensor([i for i in range(32) if i not in gone]) for key, gone in idle.items()}
    half, layers = torch.arange(16), SIZES["layers"]
    kept = narrowing.everything(model)
    after = narrowing.cut(
        model,
        replace(
            kept,
            heads=heads,
            hidden=half,
            pooled=half,
            matched=[rest["matched"]] * layers,
            carried=[rest["carried"]] * layers,
        ),
    )
    assert after.family.encoder(after.module).sizes == SIZES | {"heads": heads, "hidden": 16}  # type: ignore[attr-defined]
    same(model, after)


def test_heads_that_do_nothing_are_those_that_go(tmp_path: Path) -> None:
    whole = [*range(8, 16), *range(24, 32)]
    model = halved(made(), {"matched": whole, "carried": whole})
    after = narrowing.narrow(model, wanted(heads=0.5), texts.context(tmp_path))
    for number in range(SIZES["layers"]):
        biases = [layer(one, number, "key").bias for one in (after, model)]
        assert torch.equal(biases[0], biases[1][[*range(8), *range(16, 24)]])
