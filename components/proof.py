"""Statistics of the matrix: what a difference in accuracy on the same rows is worth.

Paired by row, so that what all cells have in common (hard rows) cancels out. Of speeds: components/speed.py.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

AccuracyVerdict = Literal["better", "no worse", "worse", "cannot tell"]


def interval(gained: int, lost: int, rows: int, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Paired percentile bootstrap of the accuracy difference over `rows` rows (Efron 1979).

    A row's difference is 1 (gained), -1 (lost) or 0, so a resample is one draw from a multinomial: the
    distribution of resampling rows in memory that does not grow with them. Without a gained or lost row it is 0, 0.
    """
    shares = [gained / rows, lost / rows, (rows - gained - lost) / rows]
    drawn = np.random.default_rng(seed).multinomial(rows, shares, size=resamples)
    differences = (drawn[:, 0] - drawn[:, 1]) / rows
    tail = (1 - confidence) / 2
    # The differences lie on a lattice: outward to the next point, never inward.
    return float(np.quantile(differences, tail, method="lower")), float(
        np.quantile(differences, 1 - tail, method="higher")
    )


def accuracy_verdict(low: float, high: float, margin: float) -> AccuracyVerdict:
    """Where the interval lies to -margin: above (and above 0), above, below, across."""
    if low > 0:
        return "better"
    if low >= -margin:
        return "no worse"
    return "worse" if high < -margin else "cannot tell"


def rows_needed(difference: float, low: float, high: float, margin: float, rows: int) -> int | None:
    """Test rows at which an interval about the same difference would no longer lie across -margin.

    Its width falls with the root of the rows. None if the difference is the margin itself: no number of rows tells.
    """
    distance = difference + margin
    reach = difference - low if distance > 0 else high - difference
    return None if distance == 0 else math.ceil(rows * (reach / distance) ** 2)


def accuracy(
    labels: np.ndarray,
    reference: np.ndarray,
    other: np.ndarray,
    *,
    margin: float,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The answers `other` against `reference` on the same rows (class numbers; n,), other minus reference.

    `mcnemar_p` is the exact two-sided McNemar test; flips are rows, `changed` the share of all answers.
    """
    from scipy.stats import binomtest

    right, was_right = other == labels, reference == labels
    gained, lost = int((right & ~was_right).sum()), int((~right & was_right).sum())
    rows = len(labels)
    difference = (gained - lost) / rows
    low, high = interval(gained, lost, rows, confidence, resamples, seed)
    verdict = accuracy_verdict(low, high, margin)
    flips = {"gained": gained, "lost": lost, "changed": float((other != reference).mean())}
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "mcnemar_p": float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0,
        "flips": flips,
        "verdict": verdict,
        "rows_needed": rows_needed(difference, low, high, margin, rows) if verdict == "cannot tell" else None,
    }


def class_changes(labels: np.ndarray, reference: np.ndarray, other: np.ndarray) -> dict[int, float]:
    """Class number to the change of its accuracy, other minus reference, for classes that have rows."""
    change = (other == labels).astype(float) - (reference == labels)
    return {int(label): float(change[labels == label].mean()) for label in np.unique(labels)}


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over bins of equal width (Guo et al., arXiv 1706.04599). Logits (n, classes)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    confidence = (shifted / shifted.sum(1, keepdims=True)).max(1)
    right = (logits.argmax(1) == labels).astype(np.float64)
    # Bins are (lower, upper]; a confidence is above 0, so none falls out at the bottom.
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
