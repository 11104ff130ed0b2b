"""The front is what nothing dominates, and everything else is dominated by something on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components import front, timing

Row = dict[str, Any]


def row(cell: str, accuracy: float | None, latency_ms: float | None, size_mb: float | None, **more: Any) -> Row:
    latencies = {"1": latency_ms} if latency_ms is not None else {}
    figures = {"accuracy": accuracy, "latency_ms": latencies, "size_mb": size_mb}
    return {"cell": cell, "status": "ok", "beaten_by": {}, **figures, **more}


few = st.sampled_from([1.0, 2.0, 3.0])
maybe = st.one_of(st.none(), few)


@st.composite
def matrices(draw: st.DrawFn) -> list[Row]:
    """Any cells, some of them not measured, and any verdicts between them: circles and contradictions too."""
    status = st.sampled_from(["ok", "ok", "ok", "failed"])
    figures = draw(st.lists(st.tuples(maybe, maybe, maybe, status), max_size=9))
    names = [f"v{number}/t" for number in range(len(figures))]
    rows = [row(name, *plain, status=ok) for name, (*plain, ok) in zip(names, figures, strict=True)]
    for each in rows:
        rivals = [name for name in names if name != each["cell"]]
        faster = draw(st.sets(st.sampled_from(rivals))) if rivals else set()
        each["beaten_by"] = {name: [1.2, 1.1, 1.3] for name in sorted(faster)}
    return rows


def worse(one: Row, other: Row, tier: dict[str, int]) -> bool:
    """Written anew for the test: whether `other` dominates `one`."""
    a, b = tier[one["cell"]], tier[other["cell"]]
    if other["accuracy"] < one["accuracy"] or other["size_mb"] > one["size_mb"] or b > a:
        return False
    return bool(other["accuracy"] > one["accuracy"] or other["size_mb"] < one["size_mb"] or b < a)


@given(matrices())
def test_the_front_is_what_nothing_dominates(rows: list[Row]) -> None:
    found = front.dominated_by(rows, 1)
    known = [each for each in rows if front.measured(each, "1")]
    tier = front.tiers(known, "1")
    assert set(found) == {each["cell"] for each in rows}
    assert {cell for cell, by in found.items() if by is not None} == {each["cell"] for each in known} == set(tier)
    on = {cell for cell, by in found.items() if by == []}
    assert on or not known  # never empty if anything was measured
    for each in known:
        dominating = {other["cell"] for other in known if worse(each, other, tier)}
        assert (each["cell"] in on) == (not dominating)
        assert set(found[each["cell"]] or ()) == dominating & on
        assert each["cell"] in on or dominating & on


@given(matrices(), st.randoms())
def test_the_order_of_cells_does_not_matter(rows: list[Row], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = front.dominated_by(shuffled, 1)
    assert {cell: sorted(by or ()) for cell, by in again.items()} == {
        cell: sorted(by or ()) for cell, by in front.dominated_by(rows, 1).items()
    }


@given(st.integers(0, 10_000), st.lists(st.floats(0.5, 2.0), min_size=2, max_size=5))
def test_what_is_surely_faster_is_in_a_faster_tier(seed: int, takes: list[float]) -> None:
    """Verdicts of real rounds: a machine that drifts, and cells of unlike noise."""
    rng = np.random.default_rng(seed)
    drift = rng.lognormal(0, 0.3, 40)
    noise = rng.choice([0.005, 0.3], len(takes))
    seconds = {
        f"v{i}": {1: drift * times * rng.lognormal(0, wide, 40)}
        for i, (times, wide) in enumerate(zip(takes, noise, strict=True))
    }
    beaten = timing.beaten_by(list(seconds), 1, seconds, 0.0, 0.95)
    rows = [row(name, 0.9, float(np.median(seconds[name][1])), 1.0, beaten_by=beaten[name]) for name in seconds]
    tier = front.tiers(rows, "1")
    circle = any(beaten[other].get(name) for name in seconds for other in beaten[name])
    assert not circle
    for name, faster in beaten.items():
        unbeaten = [other for other in seconds if not beaten[other]]
        if unbeaten:
            assert (tier[name] == 0) == (not faster)


def test_noise_in_the_median_pushes_nothing_off() -> None:
    """b is 1 % faster by its median, but not surely: a, more accurate, dominates it. If it is surely, both stay."""
    a, b = row("a", 0.9, 1.01, 1.0), row("b", 0.8, 1.0, 1.0)
    assert front.dominated_by([a, b], 1) == {"a": [], "b": ["a"]}
    a["beaten_by"] = {"b": [1.2, 1.1, 1.3]}
    assert front.dominated_by([a, b], 1) == {"a": [], "b": []}


def test_nothing_measured_is_an_empty_front_and_no_error() -> None:
    assert front.dominated_by([row("a", None, None, None, status="refused")], 1) == {"a": None}
    assert front.dominated_by([row("a", 0.9, None, 1.0)], 1) == {"a": None}
