"""Statistics of the matrix: what a difference in speed is worth.

Paired by round, so that what all cells have in common (a busy machine) cancels out. The A/A control, the
reference against its own copy, says what these rounds cannot see: nothing closer than that is called a difference.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Verdict = Literal["faster", "same", "slower", "cannot tell"]

# What differs by less is not told apart: another build of the same kernels may well.
SAME = 0.02
# An interval that reaches beyond this is too wide to be called the same.
NEAR = 0.05


def median_interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Distribution-free interval of the median from order statistics; least and greatest if there are too few."""
    from scipy.stats import binom

    ordered = np.sort(values)
    skip = max(int(binom.ppf((1 - confidence) / 2, len(ordered), 0.5)) - 1, 0)
    return float(ordered[skip]), float(ordered[len(ordered) - 1 - skip])


def ratio(reference_seconds: np.ndarray, seconds: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """How many times as fast: median over rounds of reference / other, with its interval. Both (rounds,)."""
    ratios = reference_seconds / seconds
    return float(np.median(ratios)), *median_interval(ratios, confidence)


def noise(low: float, high: float) -> float:
    """How far the interval of the A/A control reaches from 1, either way: 0.1 for [0.95, 1.1]."""
    return max(high, 1 / low) - 1


def verdict(low: float, high: float, noise: float) -> Verdict:
    """What the interval of a ratio says, where the A/A control has this noise (0 to judge the control itself).

    Faster or slower: all of it lies beyond what is not told apart, SAME or the noise, whichever is more. Same:
    all of it lies within NEAR, and so does the noise. Else it cannot be told. The inverse interval has the
    inverse verdict.
    """
    told_apart = max(SAME, noise)
    if low > 1 + told_apart:
        return "faster"
    if high < 1 / (1 + told_apart):
        return "slower"
    alike = low >= 1 / (1 + NEAR) and high <= 1 + NEAR and told_apart <= NEAR
    return "same" if alike else "cannot tell"
