"""Rounds are what they say: every cell once in each, warm-up apart, sessions anew, more of them where it is noisy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from components import benchmark, params
from components.data import Spec, read_rows

SETTINGS = params.Benchmark(batch_sizes=[1], rounds=9, max_rounds=9, warmup=3, seconds_per_round=1e-9, loads=1)


def test_turns_visit_every_cell_once_a_round_and_leave_the_warm_up_out() -> None:
    called: list[str] = []

    def opener(name: str) -> Callable[[], benchmark.Call]:
        return lambda: lambda inputs: called.append(name)

    seconds = benchmark.turns({name: opener(name) for name in "abc"}, "a", {}, SETTINGS, [])
    assert {name: [len(turn) for turn in by_round] for name, by_round in seconds.items()} == {
        name: [1] * 9 for name in "abc"
    }
    warm, rounds = called[: 3 * (1 + 3)], called[3 * (1 + 3) :]
    assert sorted(warm) == sorted("abc" * 4)
    # A call that does not count and one that does. Opened again in round 1, after which one more does not count;
    # never again, since turns take no time here.
    assert len(rounds) == 9 * 3 * 2 + 3
    later = rounds[6 + 9 :]
    assert len({tuple(later[at : at + 6]) for at in range(0, len(later), 6)}) > 1  # shuffled


@pytest.mark.parametrize(
    ("share", "seconds", "calls"),
    [
        (0.01, 1e-3, 9),  # the first call, which does not count, takes its share too
        (0.01, 1e-6, benchmark.MOST_CALLS),
        (0.01, 0.02, benchmark.LEAST_CALLS),
        (0.01, 0.2, 1),  # three would take longer than the whole round may
    ],
)
def test_calls_fit_their_share(share: float, seconds: float, calls: int) -> None:
    assert benchmark.calls_in(share, seconds, most=0.25) == calls


def test_sessions_are_opened_anew_as_often_as_it_pays() -> None:
    opened: list[str] = []

    def opener(name: str, takes: float) -> Callable[[], benchmark.Call]:
        def open_it() -> benchmark.Call:
            opened.append(name)
            time.sleep(takes)
            return lambda inputs: None

        return open_it

    settings = SETTINGS.model_copy(update={"rounds": 20, "max_rounds": 20, "seconds_per_round": 0.1})
    benchmark.turns({"light": opener("light", 0.0), "heavy": opener("heavy", 0.23)}, "light", {}, settings, [])
    assert opened.count("light") == 20
    assert opened.count("heavy") in (4, 5, 6)  # at first, in round 1, then in about every fifth, of 0.05 s a turn


def test_rounds_go_on_while_it_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def undecided(seconds: dict[str, list[float]], reference: str) -> list[str]:
        asked.append(len(seconds["a"]))
        return ["b"] if len(seconds["a"]) < 19 else []

    monkeypatch.setattr(benchmark, "undecided", undecided)
    openers: Any = dict.fromkeys("ab", lambda: lambda inputs: None)
    settings = SETTINGS.model_copy(update={"max_rounds": 200})
    assert len(benchmark.turns(openers, "a", {}, settings, [])["b"]) == 19
    assert asked == [9, 19]
    assert len(benchmark.turns(openers, "a", {}, SETTINGS.model_copy(update={"max_rounds": 15}), [])["b"]) == 15


def test_a_cell_that_is_clearly_faster_needs_no_more_rounds_but_a_noisy_copy_does() -> None:
    rng = np.random.default_rng(0)
    quiet, noisy = rng.normal(1, 0.005, 40).tolist(), rng.lognormal(0, 0.5, 40).tolist()
    fast = (np.array(noisy) / 8).tolist()
    assert benchmark.undecided({"ref": quiet, "control": quiet, "fast": fast}, "ref") == []
    assert "control" in benchmark.undecided({"ref": quiet, "control": noisy, "fast": fast}, "ref")
    assert benchmark.undecided({"eager": noisy}, "ref") == []  # nothing to tell it from


def test_the_stage_is_run_again_where_its_timings_would_not_hold(root: Path) -> None:
    """What machine.json names of the host is what dvc.yaml watches."""
    stages: dict[str, Any] = YAML(typ="safe").load((root / "dvc.yaml").read_text("utf-8"))["stages"]
    watched = [entry for entry in stages["benchmark"]["params"] if "work/observed/host.json" in entry]
    assert watched == [{"work/observed/host.json": list(benchmark.HOST)}]


def test_the_length_of_texts_is_kept_with_the_timings(prepared_texts: Path, prepared_images: Path) -> None:
    for data, length in ((prepared_texts, 16), (prepared_images, None)):
        spec = Spec.read(data)
        assert benchmark.tokens(read_rows(data, "validation", spec), spec) == length
