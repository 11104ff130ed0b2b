"""Every gate of the policy holds, says what it found, and is missed where nothing was measured."""

from __future__ import annotations

from typing import Any

import pytest

from components import params
from components.decide import decide
from components.gates import checks, shown_low, unasked
from components.params import BatchBound, Caps
from components.params.measure import Policy
from tests.components.test_decide import NOBODY, against, matrix, policy, row

ROW: dict[str, Any] = {
    "flips": {"gained": 2, "lost": 6, "changed": 0.03, "right_to_wrong": 0.02},
    "class_change": {"class": "seven", "change": -0.04, "low": -0.1, "high": 0.0, "rows": 40},
    "ece": 0.03,
    "peak_memory_mb": 80.0,
    "certificate": {"integer_multiply_add_share": 0.9},
    "latency_ms": {"1": 0.5, "32": 4.0},
}
ASKED = [
    (
        {"caps": Caps(flips=0.02)},
        {"caps": Caps(flips=0.019)},
        "2.00% of the rows right for the reference, a/fp32, now wrong",
    ),
    (
        {"caps": Caps(worst_class_drop=0.04)},
        {"caps": Caps(worst_class_drop=0.039)},
        "class seven, which lost most against the reference, a/fp32: -4.00 points",
    ),
    ({"caps": Caps(ece=0.03)}, {"caps": Caps(ece=0.029)}, "calibration error 0.0300"),
    ({"memory_mb": 80.0}, {"memory_mb": 79.0}, "80 MB at most, at the batch sizes of benchmark"),
    (
        {"batches": [BatchBound(batch_size=32, latency_ms=4.0)]},
        {"batches": [BatchBound(batch_size=32, latency_ms=3.9)]},
        "4 ms at batch 32",
    ),
    ({"integer_share": 0.9}, {"integer_share": 0.91}, "90.0% of its multiply-adds in integer kernels"),
]
NOT_MEASURED: dict[str, Any] = {
    "flips": None,
    "class_change": None,
    "ece": None,
    "peak_memory_mb": None,
    "certificate": None,
    "latency_ms": {"1": 0.5},
}


def judged(asked: Policy, **changes: Any) -> dict[str, Any]:
    """What is decided of b/int8, whose reference is a/fp32."""
    rows = [row(cell) | ROW | changes for cell in ("a/fp32", "b/int8")]
    measured = matrix(*rows) | {"reference": "a/fp32", "confidence": 0.95}
    found: dict[str, Any] = decide(measured, asked, NOBODY)["cells"]["b/int8"]
    return found


@pytest.mark.parametrize(("kept", "missed", "words"), ASKED)
def test_a_limit_itself_is_kept_and_less_is_not(kept: dict[str, Any], missed: dict[str, Any], words: str) -> None:
    assert judged(policy(**kept))["feasible"]
    out = judged(policy(**missed))
    (rule,) = out["misses"]
    (gate,) = [gate for gate in out["gates"] if gate["rule"] == rule]
    assert not out["feasible"] and not gate["passed"] and gate["words"].startswith(words)


@pytest.mark.parametrize(("kept", "missed", "words"), ASKED)
@pytest.mark.hardening("J54", "a metric that a gate asks for was not measured")
def test_what_was_not_measured_is_missed(kept: dict[str, Any], missed: dict[str, Any], words: str) -> None:
    assert judged(policy(), **NOT_MEASURED)["feasible"]
    assert not judged(policy(**kept), **NOT_MEASURED)["feasible"]


@pytest.mark.hardening("G39", "NaN in each figure of a gate")
@pytest.mark.hardening("J54", "a metric is NaN")
def test_nan_passes_no_gate() -> None:
    nan = float("nan")
    for asked, changes in (
        ({"caps": Caps(ece=0.5)}, {"ece": nan}),
        ({"memory_mb": 1e6}, {"peak_memory_mb": nan}),
        ({}, {"versus_champion": against(nan)}),
    ):
        made = checks(row("b/int8") | ROW | changes, {"best": "a/fp32", "reference": "a/fp32"}, policy(**asked))
        assert not all(check.passed for check in made)


def test_with_a_confidence_the_whole_interval_must_keep_the_margin() -> None:
    champion = against(-0.0083) | {"low": -0.0242}
    assert judged(policy(margin=0.02), versus_champion=champion)["feasible"]
    out = judged(policy(margin=0.02, confidence=0.95), versus_champion=champion)
    assert out["misses"] == ["policy.confidence"]
    (gate,) = [gate for gate in out["gates"] if not gate["passed"]]
    assert gate["words"].startswith("accuracy at worst -2.42 points against the champion, at 95% confidence: beyond")
    assert judged(policy(confidence=0.95), versus_champion=champion | {"low": -0.02})["feasible"]


def test_another_confidence_than_the_matrix_has_takes_the_score_interval() -> None:
    paired = against(-0.0083) | {"flips": {"gained": 1, "lost": 4}, "rows": 360, "interval": "score"}
    low, high = shown_low(paired, 0.99, 0.95), shown_low(paired, 0.8, 0.95)
    assert low < shown_low(paired, 0.95, None) < high < -0.0083
    assert shown_low(paired, 0.95, 0.95) == paired["low"]
    assert shown_low(paired | {"interval": "identical", "low": 0.0}, 0.99, 0.95) == 0


def test_a_class_without_test_rows_keeps_no_cap() -> None:
    asked = policy(caps=Caps(worst_class_drop=0.5))
    told = {"rows": 0, "accuracy": None, "change": None}
    assert judged(asked, classes={"one": {"rows": 9, "accuracy": 1.0, "change": 0.0}})["feasible"]
    found = judged(asked, classes={"one": told})
    assert not found["feasible"] and "class one: not measured" in " ".join(found["reasons"])


def test_caps_hold_against_the_champion_too() -> None:
    champion = against(0.0) | {"flips": {"right_to_wrong": 0.1}, "class_change": {"class": "one", "change": -0.3}}
    out = judged(policy(caps=Caps(flips=0.05, worst_class_drop=0.1)), versus_champion=champion)
    assert out["misses"] == ["policy.caps.flips", "policy.caps.worst_class_drop"]
    assert all("the champion" in gate["words"] for gate in out["gates"] if not gate["passed"])


def test_the_reference_has_no_flips_against_itself() -> None:
    measured = matrix(row("a/fp32") | NOT_MEASURED) | {"reference": "a/fp32"}
    assert decide(measured, policy(caps=Caps(flips=0.0, worst_class_drop=0.0)), NOBODY)["cells"]["a/fp32"]["feasible"]


def test_the_shipped_policy_says_what_it_leaves_open() -> None:
    left = unasked(params.load().policy.model_dump())
    assert "policy.caps.flips" in left and "policy.bounds.memory_mb" in left and "policy.confidence" in left
    assert "policy.caps.ece" not in unasked(policy(caps=Caps(ece=0.1)).model_dump())
