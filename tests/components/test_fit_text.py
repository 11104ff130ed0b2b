"""The training loop with text: whatever saves time or memory, and what resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from components import fit
from components.fit import supervised
from components.model import Model
from components.params import Fit
from tests.components import texts

AUGMENT = [
    {"kind": "token_mask", "probability": 0.1},
    {"kind": "token_replace", "probability": 0.1},
    {"kind": "token_drop", "probability": 0.1},
]


def train(model: Model, out: Path, kill: int | None = None, **changes: Any) -> list[dict[str, float]]:
    logged: list[dict[str, float]] = []

    def log(metrics: Mapping[str, float], step: int) -> None:
        if step == kill:
            raise KeyboardInterrupt
        logged.append({"epoch": step, **metrics})

    params = Fit.model_validate(texts.FIT | changes)
    fit.fit(model, params, texts.context(out, log), supervised(model, params))
    return logged


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp16"},
        {"precision": "bf16", "augment": AUGMENT},
        {"layer_decay": 0.7, "unfreeze": 1, "epochs": 6},
        {"checkpoint_activations": True, "accumulate": 2, "batch_size": 16},
    ],
    ids=["fp16", "bf16-augment", "blockwise", "saving"],
)
def test_it_resumes_to_the_same_bits(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    changes = {"epochs": 4} | changes
    whole = texts.model()
    logged = train(whole, tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(texts.model(), tmp_path / "killed", kill=2, **changes)
    resumed = texts.model()
    torch.rand(17)  # a new process has another random state
    assert train(resumed, tmp_path / "killed", **changes) == logged[2:]
    assert all(map(torch.equal, texts.weights(resumed).values(), texts.weights(whole).values()))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_full_does(precision: str, tmp_path: Path) -> None:
    made: dict[str, Any] = {"epochs": 12, "optimizer": texts.FIT["optimizer"] | {"lr": 0.01}}
    half = train(texts.model(), tmp_path / "half", precision=precision, **made)
    full = train(texts.model(), tmp_path / "full", **made)
    assert half[-1]["validation_accuracy"] > 0.95
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.01)
    assert half[0]["loss"] != full[0]["loss"]


def test_a_loss_scale_that_overflows_falls_and_the_step_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The greatest scale there is: without falling, no step would be taken and nothing learned."""
    made = torch.amp.GradScaler
    scalers: list[Any] = []

    def scaler(device: str, **given: Any) -> Any:
        scalers.append(made(device, init_scale=2.0**60, **given))
        return scalers[-1]

    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    logged = train(texts.model(), tmp_path, precision="fp16", epochs=20)
    assert scalers[0].get_scale() < 2.0**40
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in logged)


@pytest.mark.parametrize("architecture", texts.CONFIGS)
def test_computing_activations_again_changes_nothing(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.utils.checkpoint

    again: list[object] = []
    kept = torch.utils.checkpoint.checkpoint
    sgd = {"kind": "sgd", "lr": 0.05, "weight_decay": 0.0, "momentum": 0.9}
    plain, saving = texts.model(architecture), texts.model(architecture)
    train(plain, tmp_path / "plain", epochs=1, optimizer=sgd)
    import transformers.modeling_utils as library

    for module in (torch.utils.checkpoint, library):
        if hasattr(module, "checkpoint"):
            monkeypatch.setattr(module, "checkpoint", lambda *a, **k: again.append(a) or kept(*a, **k))
    train(saving, tmp_path / "saving", epochs=1, optimizer=sgd, checkpoint_activations=True)
    assert again
    for name, x in texts.weights(saving).items():
        torch.testing.assert_close(x, texts.weights(plain)[name], rtol=0, atol=1e-6)


def test_augmented_text_is_another_text_every_epoch(tmp_path: Path) -> None:
    plain = train(texts.model(), tmp_path / "plain", epochs=1)
    changed = train(texts.model(), tmp_path / "changed", epochs=1, augment=AUGMENT)
    assert changed[0]["loss"] != plain[0]["loss"]
