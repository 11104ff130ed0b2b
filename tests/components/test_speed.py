"""The statistics of speed keep what they promise on simulated rounds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import benchmark, speed


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


@pytest.mark.parametrize(
    ("low", "high", "noise", "verdict"),
    [
        (0.99, 1.01, 0.0, "same"),
        (1.01, 1.04, 0.0, "same"),  # surely a little faster, by less than anyone would choose by
        (1.021, 1.04, 0.0, "faster"),
        (1.021, 1.04, 0.03, "same"),  # the control is off by as much
        (1.3, 1.4, 0.03, "faster"),
        (1.3, 1.4, 0.35, "cannot tell"),
        (1.5, 1.6, 0.35, "faster"),
        (0.99, 1.01, 0.35, "cannot tell"),  # chance: the machine was not that quiet
        (0.5, 2.0, 0.0, "cannot tell"),
        (1.0, 1.1, 0.0, "cannot tell"),
    ],
)
def test_verdicts(low: float, high: float, noise: float, verdict: str) -> None:
    assert speed.verdict(low, high, noise) == verdict
    inverse = {"faster": "slower", "slower": "faster"}
    assert speed.verdict(1 / high, 1 / low, noise) == inverse.get(verdict, verdict)


def test_the_noise_is_the_farther_end() -> None:
    assert speed.noise(0.98, 1.1) == pytest.approx(0.1)
    assert speed.noise(1 / 1.2, 1.1) == pytest.approx(0.2)


def rounds_of(
    rng: np.random.Generator, times: float, busy: float, rounds: int, reopened: bool
) -> dict[str, np.ndarray]:
    """A turn's median seconds of the reference, its copy and a cell `times` as fast, as a shared machine gives them.

    In common: drift, and bursts over several rounds. Each turn's own: where the session lies in memory (one place for
    all rounds if it is not `reopened`), jitter, and with chance `busy` another process that takes the processor for
    up to seven times as long. The figures are those of calls of 14 microseconds on two cores.
    """
    drift = np.exp(0.3 * np.sin(np.arange(rounds) / 9 + rng.uniform(0, 6)) + np.cumsum(rng.normal(0, 0.02, rounds)))
    drift *= 1 + 3 * np.repeat(rng.random(rounds // 5 + 1) < 0.2, 5)[:rounds]

    def own() -> np.ndarray:
        turns = rng.normal(1, 0.018, rounds if reopened else 1) * rng.lognormal(0, 0.01, rounds)
        return turns * np.where(rng.random(rounds) < busy, rng.uniform(1, 7, rounds), 1)

    return {"ref": drift * own(), "control": drift * own(), "cell": drift * own() / times}


def verdicts(times: float, busy: float, reopened: bool = True, trials: int = 200) -> list[tuple[str, str]]:
    """(control's verdict, the cell's) of each trial, with rounds added as benchmark adds them."""
    found = []
    for trial in range(trials):
        everything = rounds_of(np.random.default_rng(trial), times, busy, 120, reopened)
        for rounds in range(40, 121, benchmark.CHECK_EVERY):
            seen = {name: values[:rounds] for name, values in everything.items()}
            if not benchmark.undecided({name: values.tolist() for name, values in seen.items()}, "ref"):
                break
        _, low, high = speed.ratio(seen["ref"], seen["control"], 0.95)
        _, *interval = speed.ratio(seen["ref"], seen["cell"], 0.95)
        found.append((speed.verdict(low, high, 0.0), speed.verdict(*interval, speed.noise(low, high))))
    return found


@pytest.mark.parametrize("busy", [0.0, 0.15])
def test_a_copy_reads_same_in_95_of_100_trials(busy: float) -> None:
    found = verdicts(1.0, busy)
    assert np.mean([control == "same" for control, _ in found]) >= 0.97
    assert np.mean([cell == "same" for _, cell in found]) >= 0.97


def test_a_copy_would_not_if_sessions_stayed_open() -> None:
    assert np.mean([control == "same" for control, _ in verdicts(1.0, 0.0, reopened=False)]) < 0.9


@pytest.mark.parametrize(("times", "verdict"), [(1.1, "faster"), (1 / 1.1, "slower"), (3.0, "faster")])
def test_a_tenth_of_a_difference_is_seen_through_bursts_and_drift(times: float, verdict: str) -> None:
    assert np.mean([cell == verdict for _, cell in verdicts(times, 0.15)]) >= 0.97


def test_a_machine_that_is_too_noisy_is_said_to_be() -> None:
    """Where most turns are interrupted, a copy is neither told from the reference nor called the same."""
    found = verdicts(1.0, 0.8)
    assert np.mean([control == "cannot tell" for control, _ in found]) >= 0.9
    assert np.mean([cell in ("faster", "slower") for _, cell in found]) <= 0.02
