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


def covered(rows: int, gain: float, loss: float) -> float:
    """Share of 1,000 simulated pairs whose interval holds the true difference."""
    rng = np.random.default_rng(7)
    inside = 0
    for number in range(1000):
        found = proof.accuracy(*pairs(rng, rows, gain, loss), **{**SETTINGS, "seed": number})
        inside += found["low"] - 1e-12 <= gain - loss <= found["high"] + 1e-12
    return inside / 1000


# From many discordant rows to few, and to one side only; 360 rows are the test split of the embedded digits.
@pytest.mark.parametrize(
    ("rows", "gain", "loss"),
    [
        (360, 0.03, 0.08),
        (360, 0.06, 0.06),
        (360, 0.01, 0.03),
        (360, 0.005, 0.015),
        (360, 0.0, 0.02),
        (1000, 0.005, 0.005),
        (1000, 0.0, 0.02),
        (1000, 0.01, 0.03),
        (100, 0.03, 0.08),
    ],
)
def test_the_interval_covers_a_known_difference(rows: int, gain: float, loss: float) -> None:
    assert 0.93 <= covered(rows, gain, loss) <= 0.97


@pytest.mark.parametrize(("rows", "gain", "loss"), [(100, 0.0, 0.005), (100, 0.005, 0.015), (360, 0.0, 0.005)])
def test_with_hardly_a_discordant_row_it_still_covers(rows: int, gain: float, loss: float) -> None:
    """There a lattice of few points allows no closer; the bootstrap alone covers in 38 to 82 %."""
    assert covered(rows, gain, loss) >= 0.93


def test_the_bootstrap_alone_does_not_cover_few_discordant_rows() -> None:
    rng = np.random.default_rng(7)
    inside = 0
    for number in range(400):
        gained, lost, _ = rng.multinomial(360, [0.0, 0.005, 0.995])
        low, high = proof.bootstrap_interval(gained, lost, 360, 0.95, 1000, number)
        inside += low <= -0.005 <= high
    assert inside / 400 < 0.9


def test_the_method_is_named() -> None:
    labels = np.zeros(400, int)
    lost = np.where(np.arange(400) < proof.FEW_DISCORDANT, 1, 0)
    assert proof.accuracy(labels, labels, lost, **SETTINGS)["interval"] == "paired bootstrap"
    lost[0] = 0
    assert proof.accuracy(labels, labels, lost, **SETTINGS)["interval"] == "score"


def test_the_score_interval_of_a_published_example() -> None:
    """Airway hyper-responsiveness before and after, 1 and 7 discordant of 21 pairs: Fagerland, Lydersen & Laake,
    Statistics in Medicine 33 (2014) 2850-2875, table of intervals for the difference."""
    assert proof.score_interval(1, 7, 21, 0.95) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 300))
def test_the_score_interval_is_in_range_and_turns_with_the_sides(gained: int, lost: int, same: int) -> None:
    rows = max(gained + lost + same, 1)
    low, high = proof.score_interval(gained, lost, rows, 0.95)
    assert -1 <= low <= (gained - lost) / rows <= high <= 1
    assert low < high
    assert proof.score_interval(lost, gained, rows, 0.95) == pytest.approx((-high, -low), abs=1e-9)


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
    assert mine["interval"] == "paired bootstrap"
    assert mine["low"] == pytest.approx(rows.low, abs=0.0015)
    assert mine["high"] == pytest.approx(rows.high, abs=0.0015)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60), st.floats(0, 0.5))
def test_identical_models_are_no_worse_and_equal_answers_never_worse(
    answers: list[tuple[int, int]], margin: float
) -> None:
    labels, given_answers = np.array(answers).T
    settings = {**SETTINGS, "margin": margin, "resamples": 100}
    found = proof.accuracy(labels, given_answers, given_answers, identical=True, **settings)
    assert (found["verdict"], found["difference"], found["mcnemar_p"]) == ("no worse", 0.0, 1.0)
    assert (found["low"], found["high"], found["interval"]) == (0, 0, "identical")
    assert not any(found["flips"].values())
    # Two models that answered these few rows alike may still differ on others.
    alike = proof.accuracy(labels, given_answers, given_answers, **settings)
    assert alike["verdict"] in ("no worse", "cannot tell")
    assert alike["low"] < 0 < alike["high"]


def test_models_that_are_equally_good_are_hardly_ever_called_worse() -> None:
    rng = np.random.default_rng(11)
    verdicts = [
        proof.accuracy(*pairs(rng, 360, 0.02, 0.02), **{**SETTINGS, "margin": 0.0, "seed": number})["verdict"]
        for number in range(1000)
    ]
    assert verdicts.count("worse") / 1000 <= 0.035  # one side of 95 %


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
    assert proof.rows_needed(2, 8, 300, 0.02, 0.95) is None


@given(st.integers(0, 12), st.integers(0, 12), st.integers(30, 500))
def test_rows_needed_are_where_the_interval_leaves_the_margin(gained: int, lost: int, same: int) -> None:
    rows, margin = gained + lost + same, 0.05
    needed = proof.rows_needed(gained, lost, rows, margin, 0.95)
    if needed is None or needed < 3:
        return

    def crosses(rows_then: float) -> bool:
        scale = rows_then / rows
        low, high = proof.score_interval(gained * scale, lost * scale, rows_then, 0.95)  # type: ignore[arg-type]
        return low <= -margin <= high

    assert not crosses(needed + 0.01) and crosses(needed - 1.01)


def test_mcnemar_by_hand() -> None:
    labels = np.zeros(20, int)
    reference, other = np.zeros(20, int), np.array([1] * 6 + [0] * 14)
    found = proof.accuracy(labels, reference, other, **SETTINGS)
    assert found["mcnemar_p"] == pytest.approx(2 * 0.5**6)
    assert found["flips"] == {"gained": 0, "lost": 6, "changed": 0.3, "wrong_to_right": 0, "right_to_wrong": 0.3}


def test_class_changes_by_hand() -> None:
    labels = np.array([0] * 20 + [2] * 5)
    reference, other = labels.copy(), labels.copy()
    other[:6] = 1
    reference[20] = 0
    found = proof.class_changes(labels, reference, other, 0.95)
    assert set(found) == {0, 2}
    assert (found[0]["rows"], found[0]["accuracy"], found[0]["change"]) == (20, 0.7, -0.3)
    assert (found[2]["rows"], found[2]["accuracy"], found[2]["change"]) == (5, 1.0, 0.2)
    assert (found[0]["low"], found[0]["high"]) == proof.score_interval(0, 6, 20, 1 - 0.05 / 2)


def test_the_worst_of_ten_classes_is_covered_though_it_was_picked() -> None:
    """No class changed; an interval for one class would miss this for the one that looks worst in a fifth of cases."""
    rng = np.random.default_rng(5)
    inside = alone = 0
    labels = np.repeat(np.arange(10), 36)
    for _ in range(300):
        _, reference, other = pairs(rng, 360, 0.06, 0.06)
        found = proof.class_changes(labels, np.where(reference, 10, labels), np.where(other, 10, labels), 0.95)
        worst = min(found.values(), key=lambda one: one["change"])
        inside += worst["high"] >= 0
        alone += proof.class_changes(np.zeros(36, int), *one_class(worst), 0.95)[0]["high"] >= 0
    assert inside / 300 >= 0.95 > 0.9 > alone / 300


def one_class(found: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Answers with this change, all of it lost."""
    other = np.zeros(36, int)
    other[: round(-found["change"] * 36)] = 1
    return np.zeros(36, int), other


def error(logits: np.ndarray, labels: np.ndarray) -> float:
    return proof.calibration(logits, labels, 1, 0).error


def test_calibration_error_by_hand() -> None:
    # Two classes, always 80 % sure (logit difference log 4), right in 3 of 5.
    logits = np.tile([np.log(4.0), 0.0], (5, 1)).astype(np.float32)
    assert error(logits, np.array([0, 0, 0, 1, 1])) == pytest.approx(0.2, abs=1e-6)
    sure = np.array([[50.0, 0.0]], np.float32)
    assert error(sure, np.array([0])) == pytest.approx(0, abs=1e-9)


def confident(rng: np.random.Generator, rows: int, sharper: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits (rows, 2) of one model, and labels: right as often as it says at sharper = 1, too sure above."""
    truth = rng.uniform(0.5, 1, rows)
    labels = (rng.random(rows) >= truth).astype(int)
    logit = np.log(truth / (1 - truth)) * sharper
    return np.stack([logit, np.zeros(rows)], 1).astype(np.float32), labels


def test_the_change_of_calibration_error_is_covered_by_the_paired_bootstrap() -> None:
    """Both models too sure, one more: the bins' gaps are clear of 0, where the bootstrap is sound."""
    sharp, sharper = 2.0, 3.0
    rng = np.random.default_rng(2)
    logits, labels = confident(rng, 400_000, 1.0)
    truth = error(logits * sharper, labels) - error(logits * sharp, labels)
    inside = 0
    for number in range(200):
        logits, labels = confident(rng, 360, 1.0)
        mine, other = (proof.calibration(logits * by, labels, 200, number) for by in (sharp, sharper))
        found = proof.calibration_change(mine, other, 0.95)
        inside += found["low"] <= truth <= found["high"]
    assert 0.90 <= inside / 200 <= 0.99


def test_calibration_is_resampled_in_pairs_and_alike_every_time() -> None:
    logits, labels = confident(np.random.default_rng(0), 300, 1.0)
    one, again, other = (proof.calibration(logits, labels, 50, seed) for seed in (3, 3, 4))
    assert (one.resampled == again.resampled).all() and (one.resampled != other.resampled).any()
    assert proof.calibration_change(one, again, 0.95) == {"difference": 0, "low": 0, "high": 0}
    apart = proof.calibration_change(one, proof.calibration(logits * 1.01, labels, 50, 3), 0.95)
    assert apart["high"] - apart["low"] < 0.2 * np.ptp(one.resampled)  # paired: what both have in common is gone


def test_memory_does_not_grow_with_the_resamples() -> None:
    import tracemalloc

    logits, labels = confident(np.random.default_rng(0), 100_000, 1.0)
    tracemalloc.start()
    proof.calibration(logits, labels, 20, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * logits.shape[0] * 8  # resamples times rows would be 20 times the rows
