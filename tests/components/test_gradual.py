"""fit.layer_decay and fit.unfreeze: what is trained when, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components import fit, gradual
from components.errors import TrainingError
from components.fit import supervised
from components.model import Model
from components.params import Fit, Group
from tests.components import texts


def trained(model: Model) -> dict[str, Any]:
    return {name: p for name, p in model.module.named_parameters() if p.requires_grad}


def params(**changes: Any) -> Fit:
    return Fit.model_validate(texts.FIT | changes)


def test_each_block_learns_slower_than_the_one_above() -> None:
    model = texts.model()
    rates = gradual.learning_rates(model, trained(model), {}, 0.5)
    assert {name: rate for name, rate in rates.items() if name.endswith("query.weight")} == {
        f"bert.encoder.layer.{number}.attention.self.query.weight": 0.5 ** (3 - number) for number in range(3)
    }
    assert rates["bert.embeddings.word_embeddings.weight"] == 0.5**4
    assert set(trained(model)) - set(rates) == {
        f"{layer}.{kind}" for layer in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")
    }


def test_a_step_moves_weights_by_their_own_rate(tmp_path: Path) -> None:
    """SGD, one step, nothing clipped: the lower block moves by its gradient times the lower rate."""
    sgd = {"kind": "sgd", "lr": 0.1, "weight_decay": 0.0, "momentum": 0.0}
    made = {"epochs": 1, "batch_size": 160, "optimizer": sgd, "clip_norm": 1e6}
    moved = []
    for decay in ({}, {"layer_decay": 0.1}):
        model = texts.model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        before = texts.weights(model)
        loop = params(**made, **decay, schedule={"kind": "constant", "warmup_share": 0.0})
        fit.fit(model, loop, texts.context(tmp_path / str(len(moved))), supervised(model, loop))
        moved.append({name: x - before[name] for name, x in texts.weights(model).items() if x.dtype == torch.float32})
    plain, slow = moved
    for name, factor in {
        "classifier.weight": 1.0,
        "bert.encoder.layer.2.output.dense.weight": 0.1,
        "bert.encoder.layer.0.output.dense.weight": 0.001,
        "bert.embeddings.word_embeddings.weight": 0.0001,
    }.items():
        assert plain[name].abs().max() > 0
        torch.testing.assert_close(slow[name], plain[name] * factor, rtol=2e-2, atol=2e-8)


def test_a_rate_that_is_said_twice_is_refused() -> None:
    model = texts.model()
    group = Group(match="bert.encoder.layer.1", lr_factor=2.0)
    of = {name: group for name in trained(model) if ".layer.1." in name}
    with pytest.raises(TrainingError, match=r"layer_decay: gives bert.encoder.layer.1.*match 'bert.encoder.layer.1'"):
        gradual.learning_rates(model, trained(model), of, 0.5)
    head = {name: Group(match="classifier", lr_factor=2.0) for name in ("classifier.weight", "classifier.bias")}
    assert gradual.learning_rates(model, trained(model), head, 0.5)


def test_blocks_thaw_from_the_top_and_then_learn(tmp_path: Path) -> None:
    model = texts.model()
    at: list[dict[str, torch.Tensor]] = [texts.weights(model)]
    loop = params(epochs=10, unfreeze=2, schedule={"kind": "constant", "warmup_share": 0.0})
    context = texts.context(tmp_path, lambda metrics, step: at.append(texts.weights(model)))
    fit.fit(model, loop, context, supervised(model, loop))

    def first(name: str) -> int:
        return next(epoch for epoch in range(10) if not torch.equal(at[epoch][name], at[epoch + 1][name]))

    assert first("classifier.weight") == first("bert.pooler.dense.weight") == 0
    for number, epoch in ((2, 2), (1, 4), (0, 6)):
        assert first(f"bert.encoder.layer.{number}.output.dense.weight") == epoch
    assert first("bert.embeddings.position_embeddings.weight") == 8
    assert all(p.requires_grad for p in model.module.parameters())


def test_patience_waits_until_all_is_trained(tmp_path: Path) -> None:
    seen: list[int] = []
    model = texts.model()
    loop = params(epochs=30, unfreeze=3, patience=1, optimizer=texts.FIT["optimizer"] | {"lr": 1e-12})
    context = texts.context(tmp_path, lambda metrics, step: seen.append(step))
    fit.fit(model, loop, context, supervised(model, loop), lambda: {"loss": 1.0})
    assert seen[-1] == 13  # 4 blocks, one every 3 epochs: all from epoch 12 on


def test_what_is_frozen_by_a_group_stays_frozen_and_is_not_waited_for(tmp_path: Path) -> None:
    model = texts.model()
    before = texts.weights(model)
    groups = [{"match": "bert.embeddings", "freeze": True}, {"match": "bert.encoder.layer.1", "freeze": True}]
    loop = params(epochs=3, unfreeze=1, groups=groups, schedule={"kind": "constant", "warmup_share": 0.0})
    falling = iter([3.0, 2.0, 1.0])  # so that the last epoch is the best
    fit.fit(model, loop, texts.context(tmp_path), supervised(model, loop), lambda: {"loss": next(falling)})
    after = texts.weights(model)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if "embeddings" in name or ".layer.1." in name} <= same
    assert not {name for name in same if ".layer.0." in name and "key.bias" not in name}, "thawed by epoch 2"


def test_running_statistics_of_a_frozen_block_stay(prepared: Path, spec: Any) -> None:
    from components import assemble
    from components.params import Resnet

    family = Resnet(family="resnet", stem="cifar", widths=[8, 16], blocks=[1, 1], dropout=0.0)
    model = assemble.create(family, spec)
    thaw = gradual.unfreezing(model, trained(model), 1, 9)
    assert len(thaw.waiting) == 3
    for epoch, left in enumerate([3, 2, 1, 0]):
        still = thaw.frozen(epoch)
        blocks = model.blocks()[:left]
        assert {id(x) for x in still} == {
            id(x) for block in blocks for x in block.modules() if isinstance(x, torch.nn.BatchNorm2d)
        }
        assert bool(still) == bool(left)


def test_an_adapter_is_thawed_block_by_block_too() -> None:
    """It has nothing outside of the blocks: the top one is trained at once, and embeddings are passed over."""
    from dataclasses import replace

    from peft import LoraConfig, get_peft_model

    model = texts.model()
    adapted = replace(model, module=get_peft_model(model.module, LoraConfig(r=2, target_modules=["query"])))
    thaw = gradual.unfreezing(adapted, trained(adapted), 1, 9)
    assert len(thaw.waiting) == 2
    for epoch in range(3):
        thaw.frozen(epoch)
        layers = {name.split(".layer.")[1][0] for name in trained(adapted)}
        assert layers == {"2", "1", "0"} - {"1", "0"} | set("210"[: epoch + 1])
    rates = gradual.learning_rates(adapted, trained(adapted), {}, 0.5)
    assert sorted(set(rates.values())) == [0.125, 0.25, 0.5]


def test_too_few_epochs_and_families_without_blocks_are_refused(prepared: Path, spec: Any) -> None:
    from components import assemble
    from components.params import Mlp

    model = texts.model()
    with pytest.raises(TrainingError, match=r"4 blocks, one every 2 epochs, .* from epoch 8 on, and fit.epochs is 8"):
        gradual.unfreezing(model, trained(model), 2, 8)
    mlp = assemble.create(Mlp(family="mlp", hidden=[8], dropout=0.0), spec)
    with pytest.raises(TrainingError, match=r"fit.unfreeze: goes by blocks, and family mlp has none"):
        gradual.unfreezing(mlp, trained(mlp), 1, 8)
    with pytest.raises(TrainingError, match=r"fit.layer_decay: goes by blocks, and family mlp has none"):
        gradual.learning_rates(mlp, trained(mlp), {}, 0.5)
