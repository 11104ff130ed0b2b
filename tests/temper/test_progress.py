"""What the display says."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from temper.progress import Progress, clock, expected_seconds

CHAIN = {"make@a": [], "make@b": [], "join": ["make@a", "make@b"]}


def test_expected_seconds_follows_the_dag_and_the_slots() -> None:
    known = {"make@a": 10.0, "make@b": 4.0, "join": 1.0}
    assert expected_seconds(CHAIN, known, 2, {}) == 11
    assert expected_seconds(CHAIN, known, 1, {}) == 15
    assert expected_seconds(CHAIN, known, 2, {"make@a": 8.0}) == 5  # make@b now takes longest
    assert expected_seconds({"make@new": []}, known, 1, {}) == 7  # the median of its kind
    assert expected_seconds({"build@a": []}, known, 1, {}) is None
    assert expected_seconds({}, known, 2, {}) == 0


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.integers(1, 4))
def test_expected_seconds_is_between_the_longest_and_the_sum(seconds: list[float], slots: int) -> None:
    stages: dict[str, list[str]] = {f"make@{i}": [] for i in range(len(seconds))}
    known = {f"make@{i}": value for i, value in enumerate(seconds)}
    expected = expected_seconds(stages, known, slots, {})
    assert expected is not None
    assert max(seconds) - 1e-6 <= expected <= sum(seconds) + 1e-6


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def _run(console: Console) -> None:
    with Progress(console, {"make@a": 2.0, "make@b": 2.0, "join": 1.0}, 2) as progress:
        progress.stage("observe", "running", 0.0, "")
        progress.stage("observe", "ran", 0.4, "")
        progress.planned("run-1", ["observe", "split", *CHAIN], CHAIN)
        progress.stage("make@a", "running", 0.0, "")
        progress.stage("make@a", "cached", 0.5, "")
        progress.stage("make@b", "running", 0.0, "")
        progress.stage("make@b", "failed", 1.5, "[red] is no markup here")


def test_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    _run(Console(file=out, width=60))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "make@a: restored from the run cache (0.5 s)" in text
    assert "make@b: failed after 1.5 s: [red] is no markup here" in text


def test_a_line_a_kind_in_a_terminal() -> None:
    out = io.StringIO()
    _run(Console(file=out, force_terminal=True, width=100, color_system=None, legacy_windows=False))
    last = out.getvalue().rsplit("observe", 1)[1]
    assert "✓ a 0.5 s cached" in last
    assert "✗ b 1.5 s failed" in last
    assert "– skipped" in last  # join
    assert "3/3 stages" in last
    assert "1 unchanged" in last  # split
