"""The statistics of speed keep what they promise on simulated rounds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import speed


def test_the_interval_of_the_median_covers_it() -> None:
    rng = np.random.default_rng(0)
    inside = [
        low <= 1 <= high for low, high in (speed.median_interval(rng.lognormal(0, 0.1, 40), 0.95) for _ in range(400))
    ]
    assert 0.93 <= np.mean(inside) <= 0.99
    assert speed.median_interval(np.array([3.0, 1.0, 2.0]), 0.95) == (1, 3)


@given(st.floats(0.2, 5), st.integers(0, 1000))
def test_speed_sees_through_what_slows_all_alike(times: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drift = rng.uniform(1, 20, 40)  # a busy machine, the same for both in a round
    ratio, low, high = speed.ratio(drift * rng.normal(1, 0.01, 40), drift / times, 0.95)
    assert low <= ratio <= high
    assert ratio == pytest.approx(times, rel=0.02)


def test_a_copy_reads_same_and_what_is_not_it_does_not() -> None:
    rng = np.random.default_rng(0)
    seconds = rng.normal(1, 0.02, 40)
    assert speed.verdict(*speed.ratio(seconds, rng.permutation(seconds), 0.95)[1:]) == "same"
    assert speed.verdict(*speed.ratio(seconds, seconds / 1.1, 0.95)[1:]) == "faster"
    assert speed.verdict(*speed.ratio(seconds, seconds * 1.1, 0.95)[1:]) == "slower"
