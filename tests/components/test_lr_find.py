from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components import assemble, lr_find, params
from components.data import Spec
from components.errors import TrainingError
from components.hashing import sha256_tree
from components.lr_find import Ended, Point, RangeTest, suggest

LOOP: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 32,
    "optimizer": {"kind": "adamw", "lr": 1e-8, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_share": 0.5},
    "clip_norm": 1.0,
    "patience": 1,
}
FIT = LOOP | {"loss": {"kind": "cross_entropy", "label_smoothing": 0.0}}
PASS: dict[str, dict[str, Any]] = {
    "train": {"fit": FIT},
    "lora": {"fit": FIT, "rank": 2, "alpha": 4.0, "dropout": 0.0},
    "distill": {
        "fit": FIT,
        "temperature": 2.0,
        "weight": 0.5,
        "model": {"family": "mlp", "hidden": [16], "dropout": 0.0},
    },
    "prune": {"fit": FIT, "ratio": 0.5, "round_to": 4},
    "pretrain": {
        "fit": LOOP,
        "method": {
            "kind": "contrastive",
            "views": [{"kind": "crop", "padding": 1}],
            "temperature": 0.5,
            "projection": 8,
        },
    },
}


def drive(test: RangeTest, loss_and_step: Any) -> None:
    """The loop as fit has it: ask for the rate, take the loss, step."""
    for step in range(100_000):
        rate, (loss, advance) = test.learning_rate(step), loss_and_step()
        try:
            test.see(loss)
        except Ended:
            return
        advance(rate)


@given(st.floats(30, 1e4), st.integers(0, 1000))
@settings(max_examples=30)
def test_the_rate_of_a_quadratic_bowl_is_found(steepest_curvature: float, seed: int) -> None:
    """Gradient descent on sum(h (x - noise)^2)/2 converges below 2 / max(h) and diverges above."""
    rng = np.random.default_rng(seed)
    curvature = np.geomspace(steepest_curvature / 10, steepest_curvature, 8)
    x = np.ones(8)

    def loss_and_step() -> tuple[float, Any]:
        nonlocal x
        away = x - 0.05 * rng.normal(size=8)  # with four times the noise one bowl in a hundred is not told from it
        gradient = curvature * away

        def advance(rate: float) -> None:
            nonlocal x
            x = x - rate * gradient

        return float((curvature * away**2).sum() / 2), advance

    test = RangeTest(1e-6, 1.0, 300, lambda point: None)
    drive(test, loss_and_step)
    limit = 2 / steepest_curvature
    assert test.diverged
    assert 0.8 * limit < test.points[-1].learning_rate < 5 * limit
    found = suggest(test.points)
    assert found is not None
    assert limit / 200 < found.steepest < limit / 2
    assert found.steepest < found.minimum < 3 * limit


def test_rates_rise_evenly_from_lowest_to_highest_and_then_it_ends() -> None:
    seen: list[Point] = []
    test = RangeTest(1e-4, 1e-1, 50, seen.append)
    drive(test, lambda: (1.0, lambda rate: None))
    rates = [point.learning_rate for point in test.points]
    assert seen == test.points and len(rates) == 50 and not test.diverged
    assert rates[0] == pytest.approx(1e-4) and rates[-1] == pytest.approx(1e-1)
    assert np.allclose(np.diff(np.log(rates)), math.log(1000) / 49)


def test_smoothing_has_no_bias_towards_zero() -> None:
    test = RangeTest(1e-4, 1e-1, 50, lambda point: None)
    drive(test, lambda: (3.0, lambda rate: None))
    assert [point.smoothed for point in test.points] == pytest.approx([3.0] * 50)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_it(bad: float) -> None:
    losses = iter([3.0, 2.0, bad])
    test = RangeTest(1e-4, 1e-1, 50, lambda point: None)
    drive(test, lambda: (next(losses), lambda rate: None))
    assert test.diverged and len(test.points) == 2


def points(losses: list[float]) -> list[Point]:
    rates = np.geomspace(1e-6, 1, len(losses))
    return [Point(float(rate), loss, loss) for rate, loss in zip(rates, losses, strict=True)]


@pytest.mark.parametrize("losses", [[1.0] * 100, list(np.linspace(1, 3, 100)), [1.0, 0.1]])
def test_a_loss_that_does_not_fall_suggests_nothing(losses: list[float]) -> None:
    assert suggest(points(losses)) is None


def test_the_steepest_descent_is_not_beside_the_minimum() -> None:
    """A cliff just before divergence is no safe place."""
    losses = [1 - 0.002 * i for i in range(90)] + [0.5, 0.2, 0.1, 5.0, 9.0]
    found = suggest(points(losses))
    assert found is not None
    assert found.steepest < 0.4 * found.minimum


@pytest.fixture
def parent(spec: Spec, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    mlp = params.check_family({"family": "mlp", "hidden": [32, 16], "dropout": 0.1})
    assemble.save(assemble.create(mlp, spec), tmp_path / "parent")
    return tmp_path / "parent"


def find(kind: str, prepared: Path, parent: Path, steps: int = 60, highest: float = 1.0, **changes: Any) -> RangeTest:
    variant = params.check_variant({"from": "base", "pass": kind, **PASS[kind], **changes})
    test = RangeTest(1e-6, highest, steps, lambda point: None)
    threads = torch.get_num_threads()
    try:
        lr_find.run(variant, 0, threads, test, steps, data=prepared, parent=parent)
    finally:
        torch.use_deterministic_algorithms(False)
    return test


@pytest.mark.parametrize("kind", PASS)
def test_every_pass_can_be_tested_and_comes_out_the_same(kind: str, prepared: Path, parent: Path) -> None:
    before = sha256_tree(parent), sha256_tree(prepared)
    one, two = find(kind, prepared, parent), find(kind, prepared, parent)
    assert one.points == two.points
    assert one.diverged or len(one.points) == 60
    assert (sha256_tree(parent), sha256_tree(prepared)) == before


def test_digits_take_a_sane_rate(prepared: Path, parent: Path) -> None:
    """The rate in params, 1e-8, and its schedule do not matter."""
    test = find("train", prepared, parent, steps=200)
    found = suggest(test.points)
    assert found is not None
    assert 3e-4 < found.steepest < 1e-1
    assert found.steepest < found.minimum


def test_it_ends_where_training_diverges(prepared: Path, parent: Path) -> None:
    sgd = {"kind": "sgd", "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9}
    test = find("train", prepared, parent, 60, 1e3, fit=FIT | {"optimizer": sgd, "clip_norm": 1e9})
    assert test.diverged and len(test.points) < 60


def test_what_cannot_begin_is_said(prepared: Path, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RangeTest, "see", lambda self, loss: (_ for _ in ()).throw(Ended))
    with pytest.raises(TrainingError, match="the very first loss"):
        find("train", prepared, parent)
