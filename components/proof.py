"""Statistics of the matrix: what a difference in accuracy on the same rows is worth.

Paired by row, so that what all cells have in common (hard rows) cancels out. Of speeds: components/speed.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

AccuracyVerdict = Literal["better", "no worse", "worse", "cannot tell"]
Interval = Literal["paired bootstrap", "score", "identical"]


DRAWN_AT_ONCE = 1 << 18  # rows of resamples in memory
# With fewer rows that only one of the two gets right than this, resampling them cannot show what was never drawn:
# at 0.5 % lost rows of 360 its 95 % interval covers the truth in 81 %. The score interval then takes its place.
FEW_DISCORDANT = 20


def bootstrap_interval(
    gained: int, lost: int, rows: int, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Paired percentile bootstrap of the accuracy difference over `rows` rows (Efron 1979).

    A row's difference is 1 (gained), -1 (lost) or 0, so a resample is one draw from a multinomial: the
    distribution of resampling rows in memory that does not grow with them.
    """
    rng, shares = np.random.default_rng(seed), [gained / rows, lost / rows, (rows - gained - lost) / rows]
    drawn = rng.multinomial(rows, shares, size=resamples)
    # The differences lie on a lattice: spread over its step, or the interval would be wider than what was asked for.
    differences = (drawn[:, 0] - drawn[:, 1] + rng.uniform(-0.5, 0.5, resamples)) / rows
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def score(difference: float, gained: int, lost: int, rows: int) -> float:
    """Tango's score statistic of a supposed accuracy difference, standard normal if it is the true one.

    Tango, Statistics in Medicine 17 (1998) 891-908: the variance is that of the likeliest shares with this difference.
    """
    b = (2 * rows - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    lost_share = (math.sqrt(max(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)
    variance = rows * (2 * lost_share + difference * (1 - difference))
    distance = gained - lost - rows * difference
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0


@cache  # most classes of most cells have the same few discordant rows
def score_interval(gained: int, lost: int, rows: int, confidence: float) -> tuple[float, float]:
    """The differences that Tango's score test does not reject: it covers with few rows and without a discordant one."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, difference = float(norm.ppf((1 + confidence) / 2)), (gained - lost) / rows

    def end(edge: float) -> float:
        wanted = math.copysign(z, -edge)
        if abs(difference - edge) < 1e-12 or abs(score(edge, gained, lost, rows)) <= z:
            return edge
        return float(brentq(lambda at: score(at, gained, lost, rows) - wanted, edge, difference))

    return end(-1.0), end(1.0)


def interval(
    gained: int, lost: int, rows: int, confidence: float, resamples: int, seed: int
) -> tuple[float, float, Interval]:
    """(low, high, by which method) of the accuracy difference: the paired bootstrap where it covers."""
    if gained + lost < FEW_DISCORDANT:
        return *score_interval(gained, lost, rows, confidence), "score"
    return *bootstrap_interval(gained, lost, rows, confidence, resamples, seed), "paired bootstrap"


def accuracy_verdict(low: float, high: float, margin: float) -> AccuracyVerdict:
    """Where the interval lies to -margin: above (and above 0), above, below, across."""
    if low > 0:
        return "better"
    if low >= -margin:
        return "no worse"
    return "worse" if high < -margin else "cannot tell"


def rows_needed(gained: int, lost: int, rows: int, margin: float, confidence: float) -> int | None:
    """Test rows at which the same shares of gained and lost rows would tell the difference from -margin.

    The score grows with the root of the rows. None if the difference is the margin itself: no number of rows tells.
    """
    from scipy.stats import norm

    reached = score(-margin, gained, lost, rows)
    return None if abs(reached) < 1e-9 else math.ceil(rows * (float(norm.ppf((1 + confidence) / 2)) / reached) ** 2)


def accuracy(
    labels: np.ndarray,
    reference: np.ndarray,
    other: np.ndarray,
    *,
    margin: float,
    confidence: float,
    resamples: int,
    seed: int,
    identical: bool = False,
) -> dict[str, Any]:
    """The answers `other` against `reference` on the same rows (class numbers; n,), other minus reference.

    `mcnemar_p` is the exact two-sided McNemar test. Flips: gained and lost are rows, changed, wrong_to_right and
    right_to_wrong shares of all rows. `interval` names the method. `identical`: the two are one model, as equal
    logits show; then there is nothing to estimate and the interval is 0, 0. Two models that only happen to
    answer alike have one of their rows' width.
    """
    from scipy.stats import binomtest

    right, was_right = other == labels, reference == labels
    gained, lost = int((right & ~was_right).sum()), int((~right & was_right).sum())
    rows = len(labels)
    low, high, method = interval(gained, lost, rows, confidence, resamples, seed)
    if identical:
        low, high, method = 0.0, 0.0, "identical"
    verdict = accuracy_verdict(low, high, margin)
    needed = rows_needed(gained, lost, rows, margin, confidence) if verdict == "cannot tell" else None
    return {
        "difference": (gained - lost) / rows,
        "low": low,
        "high": high,
        "interval": method,
        "mcnemar_p": float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0,
        "flips": {
            "gained": gained,
            "lost": lost,
            "changed": float((other != reference).mean()),
            "wrong_to_right": gained / rows,
            "right_to_wrong": lost / rows,
        },
        "verdict": verdict,
        # The bootstrap may not tell where the score, by which they are counted, just would.
        "rows_needed": max(needed, rows + 1) if needed else None,
    }


def class_changes(
    labels: np.ndarray, reference: np.ndarray, other: np.ndarray, confidence: float
) -> dict[int, dict[str, Any]]:
    """{class number: rows, accuracy, change: other minus reference, low, high} for classes that have rows.

    The score intervals hold for all classes at once (Bonferroni): of ten classes one always looks worst.
    """
    right, was_right = other == labels, reference == labels
    top = int(labels.max()) + 1
    asked = np.ones(len(labels), bool)
    rows, rights, gained, lost = (
        np.bincount(labels[which], minlength=top).tolist()
        for which in (asked, right, right & ~was_right, ~right & was_right)
    )
    numbers = [number for number in range(top) if rows[number]]
    each = 1 - (1 - confidence) / len(numbers)
    changes = {}
    for number in numbers:
        low, high = score_interval(gained[number], lost[number], rows[number], each)
        changes[number] = {
            "rows": rows[number],
            "accuracy": rights[number] / rows[number],
            "change": (gained[number] - lost[number]) / rows[number],
            "low": low,
            "high": high,
        }
    return changes


def calibration_gaps(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """For every row (its bin of equal width by confidence, whether it is right minus its confidence)."""
    from scipy.special import softmax

    confidence = softmax(logits.astype(np.float64), axis=1).max(1)
    right = (logits.argmax(1) == labels).astype(np.float64)
    # Bins are (lower, upper]; a confidence is above 0, so none falls out at the bottom.
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1), right - confidence


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error (Guo et al., arXiv 1706.04599) of one model, and of resamples of its rows."""

    error: float
    resampled: np.ndarray  # (resamples,): with the same seed and rows, of the same resamples for every model


def calibration(logits: np.ndarray, labels: np.ndarray, resamples: int, seed: int) -> Calibration:
    """Logits (n, classes). Memory grows with the rows, not with resamples times rows."""
    bin_of, gaps = calibration_gaps(logits, labels)
    rows, rng, bins = len(labels), np.random.default_rng(seed), int(bin_of.max()) + 1

    def errors(drawn: np.ndarray) -> np.ndarray:  # of row numbers (samples, rows)
        at = bin_of[drawn] + bins * np.arange(len(drawn))[:, None]
        sums = np.bincount(at.ravel(), weights=gaps[drawn].ravel(), minlength=bins * len(drawn))
        found: np.ndarray = np.abs(sums.reshape(len(drawn), bins)).sum(1) / rows
        return found

    at_once = max(DRAWN_AT_ONCE // rows, 1)
    sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    resampled = np.concatenate([errors(rng.integers(0, rows, (size, rows))) for size in sizes])
    return Calibration(float(errors(np.arange(rows)[None])[0]), resampled)


def calibration_change(reference: Calibration, other: Calibration, confidence: float) -> dict[str, float]:
    """{difference, low, high} of the calibration error, other minus reference, by the paired basic bootstrap.

    An estimated error is too high, most of all of a model that is well calibrated, and a resample's once more. The
    basic interval (Davison & Hinkley 1997, 5.2.1) takes that off; a percentile interval would add it twice.
    """
    difference, drawn = other.error - reference.error, other.resampled - reference.resampled
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"difference": difference, "low": 2 * difference - float(high), "high": 2 * difference - float(low)}
