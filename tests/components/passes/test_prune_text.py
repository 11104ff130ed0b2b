"""prune of text classifiers: heads, widths and layers go, and what is left is a plain smaller model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components import assemble, narrowing, params
from components.errors import TrainingError
from components.fit import answers, fit, supervised
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
    for parameter in model.module.parameters():
        if parameter.ndim == 1:  # 0 and 1, as they start, are the same in whatever order
            parameter.data = 0.5 + torch.rand_like(parameter)
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
    for size, count in (SIZES | LEFT[share]).items():
        assert figures[f"{size}_left"] == count
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


def same(before: Model, after: Model, atol: float = 1e-5) -> None:
    rows = texts.rows("validation", 40)
    torch.testing.assert_close(answers(after, rows), answers(before, rows), rtol=1e-4, atol=atol)


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
    same(model, narrowing.narrow(model, wanted(feed_forward=0.5), texts.context(tmp_path))[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_that_do_nothing_are_those_that_go(architecture: str, tmp_path: Path) -> None:
    model = made(architecture)
    for module in model.module.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.reset_parameters()
    with torch.no_grad():
        for number in (1, 3):  # what was normalized before stays as it is
            for part in ("attended", "returned"):
                layer(model, number, part).weight.zero_()
                layer(model, number, part).bias.zero_()
        classifier, rows = outside(model)[-1], texts.rows("train")
        classifier.weight *= 20  # sure of its answers, which are the labels: any other answer is worse
        classifier.bias -= answers(model, rows).mean(0)
    rows = replace(rows, labels=answers(model, rows).argmax(1).numpy())
    context = replace(texts.context(tmp_path), rows=lambda split: rows)
    after, _ = narrowing.narrow(model, wanted(layers=0.5), context)
    same(model, after, 1e-2)  # of logits 20 times as large, by way of LayerNorm's epsilon
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
            normal = isinstance(module, nn.LayerNorm) and module.normalized_shape == (32,)
            if normal or part in (encoder.attended, encoder.returned) or name.endswith("embeddings_project"):
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
    after, _ = narrowing.narrow(model, wanted(heads=0.5), texts.context(tmp_path))
    for number in range(SIZES["layers"]):
        biases = [layer(one, number, "key").bias for one in (after, model)]
        assert torch.equal(biases[0], biases[1][[*range(8), *range(16, 24)]])


def test_hidden_alone_keeps_the_heads(tmp_path: Path) -> None:
    """And what is left of it is a multiple of the heads, and of round_to where that much stays."""
    for share, round_to, left in ((0.5, 1, 16), (0.4, 8, 16), (0.3, 1, 24), (0.9, 8, 4)):
        after, _ = narrowing.narrow(made(), wanted(hidden=share, round_to=round_to), texts.context(tmp_path))
        assert after.family.encoder(after.module).sizes == SIZES | {"hidden": left}  # type: ignore[attr-defined]


def test_an_adopted_checkpoint_keeps_its_tables(tmp_path: Path) -> None:
    """Of more tokens and positions than the data need, which its params need not say."""
    model = made(vocab_size=99, max_position_embeddings=50)
    said: dict[str, Any] = getattr(model.params, "config", {})
    config = {key: said[key] for key in said if key not in ("vocab_size", "max_position_embeddings")}
    model = replace(model, params=model.params.model_copy(update={"config": config}))
    after, _ = narrowing.narrow(model, wanted(feed_forward=0.5), texts.context(tmp_path))
    assert after.module.get_input_embeddings().weight.shape == (99, 32)
    assert after.params.config["max_position_embeddings"] == 50


@pytest.mark.parametrize(
    ("model", "shares", "said"),
    [
        ({}, {"heads": 0.1}, "heads: a share of 0.1 takes nothing of 4 away"),
        ({}, {"feed_forward": 0.1, "round_to": 16}, "feed_forward: a share of 0.1 takes nothing of 32 away"),
        ({}, {"hidden": 0.01}, "hidden: a share of 0.01 takes nothing of 32 away"),
        ({}, {"layers": 0.05}, "layers: a share of 0.05 takes nothing of 4 away"),
        ({}, {"ratio": 0.5}, "ratio is for channels; give at least one of heads, feed_forward, hidden, layers"),
        ({"architecture": "electra", "embedding_size": 16}, {"hidden": 0.5}, "hidden: electra projects no embeddings"),
    ],
)
def test_shares_that_cannot_be_are_refused(
    model: dict[str, Any], shares: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=said):
        prune.run(made(**model), wanted(**shares), texts.context(tmp_path))


def test_electra_without_a_projection_is_cut_with_its_embeddings(tmp_path: Path) -> None:
    after, _ = narrowing.narrow(made("electra", embedding_size=32), wanted(hidden=0.5), texts.context(tmp_path))
    assert after.params.config["embedding_size"] == 16 and not hasattr(after.module.electra, "embeddings_project")


@pytest.mark.parametrize("architecture", ["albert", "deberta", "deberta-v2", "mpnet"])
def test_other_architectures_are_refused(architecture: str) -> None:
    from types import SimpleNamespace

    from components.families import bert

    with pytest.raises(TrainingError, match=f"layers of {architecture} cannot be made narrower .* bert, camembert, "):
        bert.encoder(SimpleNamespace(config=SimpleNamespace(model_type=architecture)))


def test_images_have_no_shares(prepared: Path, spec: Any, tmp_path: Path) -> None:
    from tests.contracts.test_members import context, tiny

    with pytest.raises(TrainingError, match=r"family vit: has no heads, .*; give ratio instead"):
        prune.run(tiny("vit", spec), wanted(heads=0.5), context(prepared, spec, tmp_path))


def trained(out: Path) -> Model:
    model, loop = made(), wanted(ratio=0.5, fit=texts.FIT | {"epochs": 6}).fit
    fit(model, loop, texts.context(out), supervised(model, loop))
    return model


def test_the_unpruned_parent_teaches(tmp_path: Path) -> None:
    """What is left comes nearer to its answers."""
    parent = trained(tmp_path)
    losses: list[float] = []
    context = texts.context(tmp_path, lambda metrics, step: losses.append(metrics["loss"]))
    soft = {"temperature": 2.0, "weight": 1.0}
    for shares in ({"feed_forward": 0.5, "layers": 0.5}, {"heads": 0.5}):
        losses.clear()
        prune.run(parent, wanted(**shares, distill=soft, fit=texts.FIT | {"epochs": 8}), context)
        assert losses[-1] < 0.75 * losses[0]


def test_each_part_of_the_loss_counts_by_its_weight(tmp_path: Path) -> None:
    """At no learning rate to speak of and without dropout: of soft targets alone, of labels alone, and between."""
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    frozen = texts.FIT | {"epochs": 1, "optimizer": texts.FIT["optimizer"] | {"lr": 1e-12}}

    def loss(augment: list[dict[str, Any]] | None = None, **soft: Any) -> float:
        losses: list[float] = []
        context = texts.context(tmp_path, lambda metrics, step: losses.append(metrics["loss"]))
        fit = frozen | ({"augment": augment} if augment else {})
        prune.run(made(**quiet), wanted(feed_forward=0.5, fit=fit, distill=soft or None), context)
        return losses[0]

    taught, labelled, both = (loss(temperature=2.0, weight=weight) for weight in (1.0, 0.0, 0.5))
    assert labelled == pytest.approx(loss()) and taught > 1e-4
    assert both == pytest.approx((taught + labelled) / 2, rel=1e-5)
    # Asked anew of rows that are changed, by as good as nothing.
    barely = [{"kind": "token_mask", "probability": 1e-9}]
    assert loss(barely, temperature=2.0, weight=1.0) == pytest.approx(taught, rel=1e-5)


def test_a_pruned_image_classifier_learns_from_its_parent(prepared: Path, spec: Any, tmp_path: Path) -> None:
    from tests.contracts.test_members import context, tiny

    frozen = texts.FIT | {"epochs": 1, "optimizer": texts.FIT["optimizer"] | {"lr": 1e-12}}
    losses: list[float] = []
    logged = replace(context(prepared, spec, tmp_path), log=lambda metrics, step: losses.append(metrics["loss"]))
    for weight in (1.0, 0.0):
        _, figures = prune.run(
            tiny("lenet", spec),
            wanted(ratio=0.5, fit=frozen, distill={"temperature": 2.0, "weight": weight}),
            logged,
        )
        assert figures["parameters_kept"] < 0.8
    prune.run(tiny("lenet", spec), wanted(ratio=0.5, fit=frozen), logged)
    assert losses[0] > 1e-5  # it would be 0 against itself
    assert losses[0] != pytest.approx(losses[2]) and losses[1] == pytest.approx(losses[2])
