"""Statistics of the matrix: what a difference in speed is worth.

Paired by round, so that what all cells have in common (a busy machine) cancels out.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Verdict = Literal["faster", "same", "slower"]

# Two sessions of one and the same file differ by up to about this (memory layout); what is closer is not told apart.
SAME = 0.02


def median_interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Distribution-free interval of the median from order statistics; least and greatest if there are too few."""
    from scipy.stats import binom

    ordered = np.sort(values)
    skip = max(int(binom.ppf((1 - confidence) / 2, len(ordered), 0.5)) - 1, 0)
    return float(ordered[skip]), float(ordered[len(ordered) - 1 - skip])


def verdict(low: float, high: float) -> Verdict:
    if low > 1 + SAME:
        return "faster"
    return "slower" if high < 1 - SAME else "same"


def ratio(reference_seconds: np.ndarray, seconds: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """How many times as fast: median over rounds of reference / other, with its interval. Both (rounds,)."""
    ratios = reference_seconds / seconds
    return float(np.median(ratios)), *median_interval(ratios, confidence)
