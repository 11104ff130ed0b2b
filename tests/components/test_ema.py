from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components import ema, fit
from components.data import Spec
from components.params import AdamW, Resnet
from tests.components.test_fit import Run, fit_params, weights

RESNET = Resnet(family="resnet", stem="cifar", widths=[8, 16], blocks=[1, 1], dropout=0.0)


def test_the_mean_is_that_of_the_formula_and_counters_are_the_last() -> None:
    module = torch.nn.BatchNorm1d(2)
    mean = ema.start(module)
    for step in (1, 2):
        now = {"weight": torch.full((2,), float(step)), "running_mean": torch.full((2,), 10.0 * step)}
        module.load_state_dict({**module.state_dict(), **now, "num_batches_tracked": torch.tensor(step)})
        ema.add(mean, module, 0.75)
    # 0.75 * (0.75 * 1 + 0.25 * 1) + 0.25 * 2, and 0.75 * (0.75 * 0 + 0.25 * 10) + 0.25 * 20
    assert mean["weight"].tolist() == [1.25, 1.25] and mean["running_mean"].tolist() == [6.875, 6.875]
    assert mean["num_batches_tracked"].item() == 2
    assert module.weight.tolist() == [2.0, 2.0]


def test_it_is_in_place_for_a_while() -> None:
    module = torch.nn.Linear(2, 1)
    now, mean = ema.start(module), {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
    with ema.in_place(module, mean):
        assert module(torch.ones(1, 2)).item() == 2.0
    assert all(torch.equal(now[name], x) for name, x in module.state_dict().items())


def test_what_is_validated_and_kept_is_the_mean(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: the same run with a mean that is never updated tells the weights after each step."""
    steps: list[dict[str, torch.Tensor]] = []
    changes = {"epochs": 2, "patience": 9, "optimizer": AdamW(kind="adamw", lr=0.01, weight_decay=0.0)}
    plain, averaged = (Run(prepared, spec, tmp_path / name, RESNET) for name in ("plain", "averaged"))
    first = ema.start(averaged.model.module)

    def note(mean: dict[str, torch.Tensor], module: torch.nn.Module, decay: float) -> None:
        steps.append(ema.start(module))

    with monkeypatch.context() as patched:
        patched.setattr(ema, "add", note)
        plain.fit(fit_params(**changes, ema_decay=0.8))
    assert len(steps) > 2
    averaged.fit(fit_params(**changes, ema_decay=0.8))
    for now in steps:
        for name, x in now.items():
            first[name] = 0.8 * first[name] + 0.2 * x if x.is_floating_point() else x
    losses = [row["validation_loss"] for row in averaged.logged]
    assert losses[1] < losses[0]  # so the last epoch's is kept
    made = averaged.model.module.state_dict()
    assert all(torch.allclose(made[name].float(), x.float(), atol=1e-6) for name, x in first.items())
    kept = fit.measure(averaged.model, averaged.context.rows("validation"), fit_params().loss)["loss"]
    assert abs(kept - losses[1]) < 1e-6
    assert not torch.equal(weights(averaged), weights(plain))
