"""The decision never breaks the policy, hangs on nothing but its inputs, and always says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import timing
from components.decide import decide, run
from components.errors import TemperError
from components.hashing import sha256_file
from components.params import Bounds, Policy
from tests.components.matrices import matrix as whole_matrix

NOBODY: dict[str, Any] = {"version": None, "digest": None}


def policy(**changes: Any) -> Policy:
    named = {name: changes.pop(name) for name in ("latency_ms", "size_mb", "memory_mb", "batches") if name in changes}
    bounds = Bounds(**{"latency_ms": None, "size_mb": None, **named})
    plain = {"metric": "accuracy", "margin": 0.02, "batch_size": 1, "objective": "latency_ms"}
    return Policy(bounds=bounds, **{**plain, **changes})


def against(difference: float) -> dict[str, Any]:
    low, high = difference - 0.01, difference + 0.01
    verdict = "no worse" if low >= -0.02 else "worse" if high < -0.02 else "cannot tell"
    return {"difference": difference, "low": low, "high": high, "verdict": verdict, "rows_needed": 900}


def row(cell: str, accuracy: float = 0.9, latency_ms: float = 1.0, size_mb: float = 1.0, **more: Any) -> dict[str, Any]:
    variant, _, target = cell.partition("/")
    times = 1 / latency_ms  # the reference takes 1 ms
    plain = {
        "cell": cell,
        "variant": variant,
        "target": target,
        "status": "ok",
        "reason": "",
        "digest": f"sha-{cell}",
        "accuracy": accuracy,
        "size_mb": size_mb,
        "latency_ms": {"1": latency_ms},
        "speedup": {"1": [times, times * 0.97, times * 1.03]},
        "versus_best": against(0.0),
        "versus_champion": None,
    }
    return {**plain, **more}


def matrix(*rows: dict[str, Any], champion: str = "not measured") -> dict[str, Any]:
    answered = [row for row in rows if row["accuracy"] is not None]
    best = max(answered, key=lambda row: row["accuracy"]) if answered else None
    for each in answered:
        each["versus_best"] = against(each["accuracy"] - best["accuracy"]) if best else None
    timed = {row["cell"]: row["latency_ms"]["1"] for row in rows if row["latency_ms"]}
    for each in rows:  # rounds differ by 3 %
        faster = {cell: timed[each["cell"]] / ms for cell, ms in timed.items() if each["cell"] in timed}
        beaten = {cell: [times, times * 0.97, times * 1.03] for cell, times in faster.items() if times * 0.97 > 1.02}
        each.setdefault("beaten_by", beaten)
    return {
        "cells": list(rows),
        "best": best["cell"] if best else None,
        "rounds": 40,
        "control": {"speed_verdict": {"1": "same"}},
        "champion": {"status": champion, "reason": "it cannot be opened"},
    }


def off(cell: str, status: str) -> dict[str, Any]:
    empty = {"accuracy": None, "size_mb": None, "digest": None, "latency_ms": {}, "speedup": {}, "versus_best": None}
    return {**row(cell), **empty, "status": status, "reason": "because"}


def test_the_fastest_that_is_no_worse_wins() -> None:
    measured = matrix(row("base/fp32", 0.95), row("small/fp32", 0.94, 0.5), row("tiny/fp32", 0.80, 0.1))
    decision = decide(measured, policy(), NOBODY)
    assert decision["action"] == "promote"
    assert decision["winner"] == {
        "cell": "small/fp32",
        "variant": "small",
        "target": "fp32",
        "digest": "sha-small/fp32",
    }
    assert not decision["cells"]["tiny/fp32"]["feasible"]
    assert "-15.00 points" in decision["cells"]["tiny/fp32"]["reasons"][0]
    assert "beyond the margin of 2 points" in decision["cells"]["tiny/fp32"]["reasons"][0]


def test_a_difference_of_just_the_margin_is_allowed() -> None:
    measured = matrix(row("base/fp32", 1.0), row("small/fp32", 0.98, 0.5))
    assert decide(measured, policy(), NOBODY)["winner"]["cell"] == "small/fp32"


def test_an_interval_across_the_margin_is_told() -> None:
    reasons = decide(matrix(row("a/fp32", 0.95), row("b/fp32", 0.935)), policy(), NOBODY)["cells"]["b/fp32"]["reasons"]
    assert "900 test rows would settle it" in reasons[0]


@pytest.mark.hardening("J57", "the challenger is worse than the champion")
def test_worse_than_the_champion_is_not_feasible() -> None:
    measured = matrix(row("base/fp32", versus_champion=against(-0.05)), champion="ok")
    decision = decide(measured, policy(), {"version": 3, "digest": "other"})
    assert (decision["action"], decision["winner"]) == ("none", None)
    assert decision["nearest_miss"]["rules"] == ["policy.margin"]
    assert "the champion" in decision["nearest_miss"]["reasons"][0]


def test_a_champion_that_could_not_be_compared_is_told() -> None:
    decision = decide(matrix(row("base/fp32")), policy(), {"version": 3, "digest": "other"})
    assert decision["action"] == "promote"
    assert "the champion was not compared: it cannot be opened" in decision["reason"]


@pytest.mark.parametrize(
    ("share", "told"), [(0.0, ""), (0.4, "beware: about 40% of these test rows"), (None, "beware: the champion's rows")]
)
def test_a_champion_that_knows_test_rows_is_told(share: float | None, told: str) -> None:
    measured = matrix(row("base/fp32", versus_champion=against(0.0)), champion="ok")
    measured["champion"]["trained_on_share"] = share
    reason = decide(measured, policy(), {"version": 3, "digest": "other"})["reason"]
    assert told in reason and bool(told) == ("beware" in reason)
    assert "beware" not in decide(measured, policy(), NOBODY)["reason"]


def test_noise_does_not_replace_the_champion() -> None:
    rows = [row("a/fp32", latency_ms=0.50), row("b/fp32", latency_ms=0.51)]
    decision = decide(matrix(*rows), policy(), {"version": 1, "digest": "sha-b/fp32"})
    assert (decision["action"], decision["winner"]["cell"]) == ("keep", "b/fp32")
    assert decide(matrix(*rows), policy(), NOBODY)["winner"]["cell"] == "a/fp32"
    clear = [row("a/fp32", latency_ms=0.40), row("b/fp32", latency_ms=0.51)]
    assert decide(matrix(*clear), policy(), {"version": 1, "digest": "sha-b/fp32"})["action"] == "promote"


NOISY = {"1": [0.99, 0.69, 1.03]}  # one cell's rounds, against the reference
SLOW = {"1": [0.87, 0.82, 0.88]}


def test_a_noisy_fastest_does_not_make_a_slower_cell_the_winner() -> None:
    """Its interval against the reference meets every other, so all would tie and the smaller win."""
    rows = [
        row("a/fp32", 0.95, latency_ms=1.01, speedup=NOISY, beaten_by={}),
        row("b/fp32", 0.95, 1.15, 0.5, speedup=SLOW, beaten_by={"a/fp32": [1.14, 1.09, 1.18]}),
    ]
    decision = decide(matrix(*rows), policy(), NOBODY)
    assert decision["winner"]["cell"] == "a/fp32"
    assert decision["reason"] == "a/fp32 has the best latency_ms of 2 feasible cells of 2"
    assert "a/fp32 is 1.14x [1.09, 1.18] as fast at batch 1" in decision["cells"]["b/fp32"]["reasons"][-1]


def test_what_any_feasible_cell_beats_does_not_tie() -> None:
    """The fastest is too noisy to beat anything, but the reference surely beats the small one."""
    rows = [
        row("a/fp32", latency_ms=0.98, speedup=NOISY, beaten_by={}),
        row("base/fp32", beaten_by={}),
        row("b/fp32", 0.9, 1.15, 0.5, speedup=SLOW, beaten_by={"base/fp32": [1.15, 1.13, 1.22]}),
    ]
    decision = decide(matrix(*rows), policy(), {"version": 1, "digest": "sha-base/fp32"})
    assert (decision["action"], decision["winner"]["cell"]) == ("keep", "base/fp32")
    assert decision["reason"].startswith(
        "base/fp32 is level with a/fp32 for the best latency_ms of 3 feasible cells of 3 "
        "(40 rounds do not tell them apart), and preferred to a/fp32 as the champion"
    )
    assert decision["level"] == ["a/fp32"]
    # As the champion, too, it makes way for what is surely faster.
    assert decide(matrix(*rows), policy(), {"version": 1, "digest": "sha-b/fp32"})["action"] == "promote"


def test_what_is_faster_but_not_feasible_is_told() -> None:
    measured = matrix(row("base/fp32", 0.95), row("tiny/fp32", 0.80, 0.1))
    decision = decide(measured, policy(), NOBODY)
    assert decision["reason"].endswith("; faster but not feasible: tiny/fp32 (policy.margin)")
    assert decision["cells"]["tiny/fp32"]["misses"] == ["policy.margin"]


@pytest.mark.parametrize(
    ("other", "why"),
    [((0.89, 1.0, 0.5), "the more accurate"), ((0.9, 1.0, 2.0), "the smaller"), ((0.9, 1.0, 1.0), "the first by name")],
)
def test_a_tie_says_what_settled_it(other: tuple[float, float, float], why: str) -> None:
    decision = decide(matrix(row("a/fp32"), row("b/fp32", *other)), policy(), NOBODY)
    assert decision["reason"].startswith("a/fp32 is level with b/fp32 for the best latency_ms")
    assert decision["reason"].endswith(f"preferred to b/fp32 as {why}")


@given(st.integers(0, 10_000), st.lists(st.floats(0.8, 1.25), min_size=1, max_size=4), st.sampled_from([5, 40]))
def test_the_decision_never_contradicts_the_table(seed: int, takes: list[float], rounds: int) -> None:
    """Rounds on a busy machine, all cells feasible: what the table calls slower or beaten is not chosen."""
    rng = np.random.default_rng(seed)
    drift = rng.lognormal(0, 0.3, rounds)
    names = ["base/fp32", *(f"v{i}/fp32" for i in range(len(takes)))]
    noise = rng.choice([0.005, 0.3], len(names))
    seconds = {
        name: {1: drift * times * rng.lognormal(0, wide, rounds)}
        for name, times, wide in zip(names, [1.0, *takes], noise, strict=True)
    }
    turns = {name: {size: values[:, None] for size, values in of.items()} for name, of in seconds.items()}
    beaten = timing.beaten_by(names, 1, seconds, 0.0, 0.95)
    rows = [row(name, size_mb=float(rng.uniform()), beaten_by=beaten[name]) for name in names]
    for each in rows:
        each |= timing.of(each["cell"], "base/fp32", turns, seconds, {}, 0.95)
    won = decide(matrix(*rows), policy(), NOBODY)["winner"]["cell"]
    verdicts = {row["cell"]: row["speed_verdict"]["1"] for row in rows}
    assert verdicts[won] != "slower"
    assert won != "base/fp32" or "faster" not in verdicts.values()


def test_a_build_that_was_rolled_back_does_not_come_back_by_itself() -> None:
    rows = matrix(row("base/fp32"), row("base/int8", latency_ms=0.5))
    made = decide(rows, policy(), {"version": 1, "digest": "sha-base/fp32", "rolled_back": ["sha-base/int8"]})
    assert made["action"] == "keep"
    assert "rolled back" in made["cells"]["base/int8"]["reasons"][-1]


def test_the_nearest_miss_names_the_bound() -> None:
    measured = matrix(row("a/fp32", latency_ms=2.0), row("b/fp32", latency_ms=1.1), off("c/fp32", "failed"))
    decision = decide(measured, policy(latency_ms=1.0), NOBODY)
    assert decision["action"] == "none"
    assert decision["nearest_miss"]["cell"] == "b/fp32"
    assert decision["nearest_miss"]["rules"] == ["policy.bounds.latency_ms"]
    assert decision["nearest_miss"]["reasons"] == ["1.1 ms at batch 1: over the bound of 1 ms"]
    assert decision["failed"] == ["c/fp32"]
    words = "b/fp32, blocked by policy.bounds.latency_ms (1.1 ms at batch 1: over the bound of 1 ms)"
    assert decision["reason"] == f"no cell meets the policy; nearest: {words}"


def test_nothing_measured_is_an_answer_too() -> None:
    decision = decide(matrix(off("a/fp32", "refused"), off("b/fp32", "not measured")), policy(), NOBODY)
    assert (decision["action"], decision["nearest_miss"], decision["failed"]) == ("none", None, [])
    assert decision["cells"]["a/fp32"]["reasons"] == ["refused: because"]
    words = "no cell meets the policy; none was measured: 1 not measured (because); 1 refused (because)"
    assert decision["reason"] == words


@pytest.mark.parametrize(
    ("objective", "winner"), [("accuracy", "a/fp32"), ("size_mb", "b/fp32"), ("latency_ms", "c/fp32")]
)
def test_objectives(objective: str, winner: str) -> None:
    measured = matrix(row("a/fp32", 0.93, 3.0, 3.0), row("b/fp32", 0.92, 2.0, 1.0), row("c/fp32", 0.92, 1.0, 2.0))
    assert decide(measured, policy(objective=objective), NOBODY)["winner"]["cell"] == winner


cells = st.lists(
    st.one_of(
        st.builds(
            row,
            st.just("v/t"),
            st.sampled_from([0.9, 0.91, 0.95, 0.99]),
            st.sampled_from([0.1, 0.5, 0.52, 1.0, 3.0]),
            st.sampled_from([0.1, 0.5, 2.0]),
        ),
        # Failed when it was timed: it has all its figures, and good ones.
        st.builds(row, st.just("v/t"), st.just(0.99), st.just(0.1), status=st.just("failed"), reason=st.just("timing")),
        st.builds(off, st.just("v/t"), st.sampled_from(["refused", "failed", "not measured"])),
    ),
    min_size=1,
    max_size=8,
).map(lambda rows: [{**row, "cell": f"v{i}/t", "variant": f"v{i}", "digest": f"d{i}"} for i, row in enumerate(rows)])
policies = st.builds(
    policy,
    margin=st.sampled_from([0.0, 0.02, 0.5]),
    latency_ms=st.sampled_from([None, 0.3, 1.0]),
    size_mb=st.sampled_from([None, 0.3, 1.0]),
    objective=st.sampled_from(["latency_ms", "size_mb", "accuracy"]),
)


@given(cells, st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))), policies, st.integers(0, 9), st.randoms())
def test_the_winner_keeps_the_policy_and_the_order_does_not_matter(
    rows: list[dict[str, Any]], pairs: set[tuple[int, int]], asked: Policy, champion: int, random: Any
) -> None:
    snapshot = {"version": 1, "digest": f"d{champion}"}
    for number, each in enumerate(rows):  # any pairs, circles among them
        each["beaten_by"] = {f"v{other}/t": [1.2, 1.1, 1.3] for one, other in pairs if one == number != other}
    measured = matrix(*rows, champion="ok")
    decision = decide(measured, asked, snapshot)
    assert all(cell["reasons"] and all(cell["reasons"]) for cell in decision["cells"].values())
    assert set(decision["cells"]) == {row["cell"] for row in rows}
    assert decision["failed"] == sorted(row["cell"] for row in rows if row["status"] == "failed")
    if decision["winner"]:
        won = next(row for row in rows if row["cell"] == decision["winner"]["cell"])
        best = max(row["accuracy"] for row in rows if row["accuracy"] is not None)
        assert won["status"] == "ok"
        assert won["accuracy"] >= best - asked.margin - 1e-9
        assert asked.bounds.latency_ms is None or won["latency_ms"]["1"] <= asked.bounds.latency_ms
        assert asked.bounds.size_mb is None or won["size_mb"] <= asked.bounds.size_mb
        feasible = {cell for cell, found in decision["cells"].items() if found["feasible"]}
        unbeaten = {row["cell"] for row in rows if row["cell"] in feasible and feasible.isdisjoint(row["beaten_by"])}
        if asked.objective == "latency_ms" and unbeaten:
            assert {won["cell"], *decision["level"]} == unbeaten
            assert won["digest"] == snapshot["digest"] or f"v{champion}/t" not in unbeaten
        assert decision["action"] == ("keep" if won["digest"] == snapshot["digest"] else "promote")
    else:
        assert decision["action"] == "none"
        assert not any(cell["feasible"] for cell in decision["cells"].values())
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = decide({**measured, "cells": shuffled}, asked, snapshot)
    assert {**again, "cells": dict(sorted(again["cells"].items()))} == {
        **decision,
        "cells": dict(sorted(decision["cells"].items())),
    }


def test_the_stage_writes_the_decision_and_the_page(tmp_path: Path) -> None:
    source, out = tmp_path / "matrix.json", tmp_path / "out"
    source.write_text(json.dumps(whole_matrix()), "utf-8")
    (tmp_path / "champion.json").write_text(json.dumps(NOBODY), "utf-8")
    out.mkdir()
    metrics = run(policy(), tmp_path, tmp_path / "champion.json", out)
    chosen = next(cell for cell in whole_matrix()["cells"] if cell["cell"] == "compact/fp32")
    assert metrics["chosen_accuracy"] == chosen["accuracy"]
    assert metrics["chosen_speedup"] == chosen["speedup"]["1"][0]
    assert (metrics["feasible_cells"], metrics["failed_cells"]) == (14, 1)
    decision = json.loads((out / "decision.json").read_text("utf-8"))
    assert (decision["champion"], decision["matrix_sha256"]) == (NOBODY, sha256_file(source))
    assert decision["reason"] in (out / "report.html").read_text("utf-8")
    source.write_text(json.dumps(whole_matrix() | {"schema": 0}), "utf-8")
    with pytest.raises(TemperError, match="schema version"):
        run(policy(), tmp_path, tmp_path / "champion.json", out)


def test_without_a_control_the_decision_says_that_no_speed_can_be_told() -> None:
    measured = matrix(row("base/fp32"), row("base/int8", latency_ms=0.5))
    words = "the reference was not timed against its own copy"
    assert words in decide(measured | {"control": {"speed_verdict": {}}}, policy(), NOBODY)["reason"]
    assert words not in decide(measured | {"control": {"speed_verdict": {"1": "same"}}}, policy(), NOBODY)["reason"]
