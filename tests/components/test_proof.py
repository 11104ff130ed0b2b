"""The statistics keep what they promise on simulated pairs whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from components import proof

SETTINGS = {"margin": 0.02, "confidence": 0.95, "resamples": 1000, "seed": 0}


def pairs(rng: np.random.Generator, rows: int, gain: float, loss: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, reference and other: a share `gain` of rows is right in other only, `loss` in reference only."""
    kind = rng.choice(4, rows, p=[gain, loss, 0.05, 0.95 - gain - loss])
    labels = np.zeros(rows, int)
    reference = np.where((kind == 0) | (kind == 2), 1, 0)
    other = np.where((kind == 1) | (kind == 2), 1, 0)
    return labels, reference, other


@pytest.mark.parametrize(("gain", "loss"), [(0.03, 0.08), (0.06, 0.06)])
def test_the_interval_covers_a_known_difference(gain: float, loss: float) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for number in range(400):
        found = proof.accuracy(*pairs(rng, 400, gain, loss), **{**SETTINGS, "seed": number})
        covered += found["low"] <= gain - loss <= found["high"]
    assert 0.93 <= covered / 400 <= 0.985  # a lattice: outward to its next point, never inward


def test_the_multinomial_is_the_bootstrap_over_rows() -> None:
    labels, reference, other = pairs(np.random.default_rng(1), 1000, 0.06, 0.03)

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        shares: np.ndarray = np.mean(a, axis=axis) - np.mean(b, axis=axis)
        return shares

    samples = ((other == labels).astype(float), (reference == labels).astype(float))
    rows = bootstrap(
        samples, difference, paired=True, vectorized=True, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    mine = proof.accuracy(labels, reference, other, **{**SETTINGS, "resamples": 4000})
    assert mine["low"] == pytest.approx(rows.low, abs=0.0015)
    assert mine["high"] == pytest.approx(rows.high, abs=0.0015)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60), st.floats(0, 0.5))
def test_identical_models_are_no_worse(answers: list[tuple[int, int]], margin: float) -> None:
    labels, given_answers = np.array(answers).T
    found = proof.accuracy(labels, given_answers, given_answers, **{**SETTINGS, "margin": margin, "resamples": 100})
    assert (found["verdict"], found["difference"], found["mcnemar_p"]) == ("no worse", 0.0, 1.0)
    assert found["flips"] == {"gained": 0, "lost": 0, "changed": 0.0}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.03, "better"),
        (0.0, 0.0, "no worse"),
        (-0.015, -0.005, "no worse"),  # surely worse than the reference, surely within the margin
        (-0.02, 0.01, "no worse"),
        (-0.03, 0.01, "cannot tell"),
        (-0.04, -0.01, "cannot tell"),
        (-0.05, -0.021, "worse"),
    ],
)
def test_verdicts(low: float, high: float, verdict: str) -> None:
    assert proof.accuracy_verdict(low, high, 0.02) == verdict


def test_rows_needed_are_enough_and_not_far_too_many() -> None:
    labels, reference, other = pairs(np.random.default_rng(3), 300, 0.04, 0.05)
    found = proof.accuracy(labels, reference, other, **SETTINGS)
    assert found["verdict"] == "cannot tell"
    times = -(-found["rows_needed"] // 300)
    more = proof.accuracy(*(np.tile(a, times + 1) for a in (labels, reference, other)), **SETTINGS)
    assert more["verdict"] != "cannot tell"
    half = found["rows_needed"] // 2
    fewer = proof.accuracy(*(np.resize(a, half) for a in (labels, reference, other)), **SETTINGS)
    assert fewer["verdict"] == "cannot tell"
    # To tell -1 from -2 points with 2 points of reach takes half the reach, so four times the rows.
    assert proof.rows_needed(-0.01, -0.03, 0.01, 0.02, 100) == 400
    assert proof.rows_needed(-0.02, -0.05, 0.01, 0.02, 300) is None


def test_mcnemar_by_hand() -> None:
    labels = np.zeros(20, int)
    reference, other = np.zeros(20, int), np.array([1] * 6 + [0] * 14)
    found = proof.accuracy(labels, reference, other, **SETTINGS)
    assert found["mcnemar_p"] == pytest.approx(2 * 0.5**6)
    assert found["flips"] == {"gained": 0, "lost": 6, "changed": 0.3}
    assert proof.class_changes(labels, reference, other) == {0: pytest.approx(-0.3)}


def test_calibration_error_by_hand() -> None:
    # Two classes, always 80 % sure (logit difference log 4), right in 3 of 5.
    logits = np.tile([np.log(4.0), 0.0], (5, 1)).astype(np.float32)
    assert proof.calibration_error(logits, np.array([0, 0, 0, 1, 1])) == pytest.approx(0.2, abs=1e-6)
    sure = np.array([[50.0, 0.0]], np.float32)
    assert proof.calibration_error(sure, np.array([0])) == pytest.approx(0, abs=1e-9)
