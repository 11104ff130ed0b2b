"""Quantization-aware training: what is rounded while training, and what is left afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components import fit, params
from components.model import Model
from components.passes import qat
from tests.components import texts


def run(model: Model, out: Path, kill: int | None = None, **changes: Any) -> dict[str, float]:
    def log(metrics: Any, step: int) -> None:
        if step == kill:
            raise KeyboardInterrupt

    loop = texts.FIT | changes.pop("fit", {})
    wanted: Any = params.check_variant({"from": "base", "pass": "qat", "fit": loop, **changes})
    made, figures = qat.run(model, wanted, texts.context(out, log))
    assert made is model
    return figures


def test_what_comes_out_is_a_plain_model_on_the_int8_grid(tmp_path: Path) -> None:
    model = texts.model()
    names, before = set(texts.weights(model)), texts.weights(model)
    run(model, tmp_path)
    after = texts.weights(model)
    assert set(after) == names
    assert not [layer for layer in model.module.modules() if layer._forward_pre_hooks]
    for name, layer in model.module.named_modules():
        if isinstance(layer, nn.Linear):
            weight = after[f"{name}.weight"]
            steps = weight / weight.abs().amax(1, keepdim=True) * 127
            torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
            assert not torch.equal(weight, before[f"{name}.weight"])
            assert type(layer) is nn.Linear


def test_figures_are_those_of_rounded_weights_and_inputs(tmp_path: Path) -> None:
    model = texts.model()
    loop = params.Fit.model_validate(texts.FIT)
    restore = qat.rounded(model.module, None)
    seen = fit.measure(model, texts.rows("validation"), loop.loss)
    restore()
    plain = fit.measure(model, texts.rows("validation"), loop.loss)
    assert seen["loss"] != plain["loss"]
    assert seen["loss"] == pytest.approx(plain["loss"], abs=0.02)
    figures = run(texts.model(), tmp_path, fit={"epochs": 15, "optimizer": texts.FIT["optimizer"] | {"lr": 0.02}})
    assert figures["validation_accuracy_fake_quantized"] > 0.95 > figures["validation_accuracy_before"]


def layer(observe: int | None) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 3))
    return made, qat.rounded(made, observe)


def test_inputs_are_rounded_to_256_steps_and_gradients_pass_straight_through() -> None:
    made, _ = layer(None)
    x = torch.linspace(-1, 3, 4000).view(1000, 4).requires_grad_()
    kept: list[torch.Tensor] = []
    made[0].rounded_inputs.register_forward_hook(lambda _, given, out: kept.append(out))  # type: ignore[index, union-attr, operator]
    made(x).sum().backward()
    assert len(kept[0].unique()) <= 256
    assert float((kept[0] - x).abs().max().detach()) <= 4 / 255 / 2 + 1e-6
    assert (kept[0] == 0).any(), "zero is one of the steps"
    weight = made[0].weight.detach().sum(0)  # type: ignore[index, operator, union-attr]
    torch.testing.assert_close(x.grad, weight.expand_as(x))
    assert made[0].parametrizations.weight.original.grad.abs().sum() > 0  # type: ignore[index, operator, union-attr]


def test_ranges_follow_some_training_batches_and_are_frozen_then() -> None:
    made, _ = layer(2)
    inputs: Any = made[0].rounded_inputs  # type: ignore[index, union-attr, operator]
    made.train()
    for size, low, high in ((1.0, -1.0, 1.0), (2.0, -1.01, 1.01), (5.0, -1.01, 1.01)):
        made(torch.tensor([[-size, size, 0.0, 0.0]]))
        assert (float(inputs.low), float(inputs.high)) == pytest.approx((low, high))
    made.eval()
    made(torch.full((1, 4), 9.0))
    assert float(inputs.high) == pytest.approx(1.01)


@pytest.mark.parametrize("observe", [None, 7])
@pytest.mark.parametrize("saving", [False, True])
def test_a_killed_run_resumes_to_the_same_bits(
    observe: int | None, saving: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    changes: dict[str, Any] = {"fit": {"checkpoint_activations": True}} if saving else {"fit": {"precision": "bf16"}}
    if observe:
        changes["observe_batches"] = observe
    whole, resumed = texts.model(), texts.model()
    figures = run(whole, tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(texts.model(), tmp_path / "killed", kill=2, **changes)
    assert run(resumed, tmp_path / "killed", **changes) == figures
    assert all(map(torch.equal, texts.weights(resumed).values(), texts.weights(whole).values()))


def test_computing_activations_again_does_not_observe_them_again(tmp_path: Path) -> None:
    plain, saving = texts.model(), texts.model()
    sgd = {"optimizer": {"kind": "sgd", "lr": 0.05, "weight_decay": 0.0, "momentum": 0.0}, "epochs": 1}
    run(plain, tmp_path / "plain", observe_batches=3, fit=sgd)
    run(saving, tmp_path / "saving", observe_batches=3, fit=sgd | {"checkpoint_activations": True})
    for name, x in texts.weights(saving).items():
        torch.testing.assert_close(x, texts.weights(plain)[name], rtol=0, atol=1e-6)


def test_groups_go_by_the_names_of_the_model_itself(tmp_path: Path) -> None:
    model = texts.model()
    before = texts.weights(model)
    groups = [
        {"match": "bert.encoder.layer.0.output.dense.bias", "freeze": True},
        {"match": "classifier.weight", "lr_factor": 0.0},
    ]
    run(model, tmp_path, fit={"groups": groups, "layer_decay": 0.9})
    after = texts.weights(model)
    name = "bert.encoder.layer.0.output.dense.bias"
    assert torch.equal(after[name], before[name])
    torch.testing.assert_close(after["classifier.weight"], before["classifier.weight"], rtol=0, atol=2e-4)  # rounded
