from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from components import assemble, fit
from components.data import Spec, read_rows
from components.errors import TrainingError
from components.fit import answers, learning_rate, supervised
from components.model import Context, Model
from components.params import AdamW, CrossEntropy, Fit, Mlp, Schedule, Sgd


def fit_params(**changes: Any) -> Fit:
    values: dict[str, Any] = {
        "epochs": 6,
        "batch_size": 32,
        "optimizer": AdamW(kind="adamw", lr=0.003, weight_decay=0.01),
        "schedule": Schedule(kind="cosine", warmup_share=0.1),
        "loss": CrossEntropy(kind="cross_entropy", label_smoothing=0.0),
        "clip_norm": 1.0,
        "patience": 50,
    }
    return Fit(**{**values, **changes})


class Run:
    """A model, and a context that keeps what is logged."""

    def __init__(self, prepared: Path, spec: Spec, out: Path) -> None:
        torch.manual_seed(0)
        self.logged: list[dict[str, float]] = []
        mlp = Mlp(family="mlp", hidden=[32], dropout=0.2)
        self.model: Model = assemble.create(mlp, spec)
        self.context = Context(
            rows=lambda split: read_rows(prepared, split, spec),
            create=lambda params: assemble.create(params, spec),
            seed=3,
            out=out,
            parent_sha256="",
            log=self.log,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append({"epoch": step, **metrics})

    def fit(self, params: Fit) -> Run:
        fit.fit(self.model, params, self.context, supervised(self.model, params))
        return self


@pytest.fixture
def run(prepared: Path, spec: Spec, tmp_path: Path) -> Run:
    return Run(prepared, spec, tmp_path)


@pytest.mark.parametrize(
    "optimizer",
    [AdamW(kind="adamw", lr=0.003, weight_decay=0.01), Sgd(kind="sgd", lr=0.1, weight_decay=0.0, momentum=0.9)],
)
@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_it_learns(run: Run, optimizer: AdamW | Sgd, kind: Any) -> None:
    run.fit(fit_params(optimizer=optimizer, schedule=Schedule(kind=kind, warmup_share=0.2)))
    assert run.logged[-1]["validation_accuracy"] > 0.7
    assert run.logged[-1]["loss"] < run.logged[0]["loss"]


def test_the_same_seed_gives_the_same_bits(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    one, two = (Run(prepared, spec, tmp_path / name).fit(fit_params()) for name in "ab")
    rows = read_rows(prepared, "validation", spec)
    assert torch.equal(answers(one.model, rows), answers(two.model, rows))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_run_resumes_to_the_same_bits(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    whole = Run(prepared, spec, tmp_path / "whole").fit(fit_params())

    killed = Run(prepared, spec, tmp_path / "killed")

    class Killed(BaseException):
        pass

    def log(metrics: Mapping[str, float], step: int) -> None:
        if step == 4:
            raise Killed

    object.__setattr__(killed.context, "log", log)
    with pytest.raises(Killed):
        killed.fit(fit_params())
    newest = max((tmp_path / "killed" / "checkpoints").glob("*.safetensors"))
    if damaged:  # falls back to the checkpoint before it
        data = bytearray(newest.read_bytes())
        data[-1] ^= 1
        newest.write_bytes(data)

    resumed = Run(prepared, spec, tmp_path / "killed").fit(fit_params())
    assert resumed.logged[0]["epoch"] == (3 if damaged else 4)
    assert resumed.logged == whole.logged[int(resumed.logged[0]["epoch"]) :]
    rows = read_rows(prepared, "validation", spec)
    assert torch.equal(answers(resumed.model, rows), answers(whole.model, rows))
    assert not (tmp_path / "killed" / "checkpoints").exists()


def test_the_best_epoch_is_kept_and_patience_ends_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.fit(fit_params(epochs=60, patience=2, optimizer=AdamW(kind="adamw", lr=0.05, weight_decay=0.0)))
    losses = [row["validation_loss"] for row in run.logged]
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 3
    kept = fit.measure(run.model, run.context.rows("validation"), fit_params().loss)["loss"]
    assert kept == pytest.approx(min(losses), abs=1e-6)


def test_nan_stops_the_run_and_says_what_to_do(run: Run) -> None:
    next(run.model.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 0, step 0.*lower fit.optimizer.lr"):
        run.fit(fit_params())


def test_divergence_stops_the_run(run: Run) -> None:
    sgd = Sgd(kind="sgd", lr=1000.0, weight_decay=0.0, momentum=0.9)
    with pytest.raises(TrainingError, match=r"diverged|became"):
        run.fit(fit_params(optimizer=sgd, schedule=Schedule(kind="linear", warmup_share=0.9), clip_norm=1e6, epochs=30))


def test_nothing_to_train_is_said(run: Run) -> None:
    for parameter in run.model.module.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match="every layer is frozen"):
        run.fit(fit_params())


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_learning_rate_rises_then_never_rises_again(kind: Any) -> None:
    factors = [learning_rate(Schedule(kind=kind, warmup_share=0.25), step, 100) for step in range(100)]
    assert factors[:25] == sorted(factors[:25])
    assert math.isclose(max(factors), 1)
    assert factors[25:] == sorted(factors[25:], reverse=True)
    assert (factors[-1] < 0.02) == (kind != "constant")
