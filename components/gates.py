"""The gates of the policy: everything that a cell must keep to, each with the figure it was judged by.

A cap or bound that is set and whose figure was not measured is missed, never passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components import proof
from components.params import Policy

Row = Mapping[str, Any]
ROUNDING = 1e-12  # a limit itself is allowed; it must not hang on how 1 - 0.98 rounds


@dataclass(frozen=True)
class Check:
    """One thing the policy asks of a cell."""

    rule: str  # where in params.yaml
    passed: bool
    words: str
    excess: float  # by how much of the limit it is missed; 0 if passed


def latency(row: Row, batch_size: int) -> float | None:
    value: float | None = row["latency_ms"].get(str(batch_size))
    return value


def points(difference: float) -> str:
    return f"{difference * 100:+.2f} points"


def shown_low(against: Mapping[str, Any], confidence: float, measured_at: float | None) -> float:
    """The lower end of an accuracy difference at `confidence`: the matrix's own, or Tango's score interval."""
    if confidence == measured_at or against.get("interval") == "identical":
        return float(against["low"])
    flips = against["flips"]
    return proof.score_interval(flips["gained"], flips["lost"], against["rows"], confidence)[0]


def accuracy_checks(row: Row, matrix: Mapping[str, Any], policy: Policy) -> Iterator[Check]:
    """Against the best cell and, where it was measured, the champion, on the same rows."""
    rivals = {f"the best cell, {matrix['best']}": row["versus_best"], "the champion": row["versus_champion"]}
    limit = f"the margin of {policy.margin * 100:g} points"
    for rival, against in rivals.items():
        if against is None:
            continue
        shortfall = -against["difference"] - policy.margin
        passed = shortfall <= ROUNDING
        words = f"accuracy {points(against['difference'])} [{points(against['low'])}, {points(against['high'])}]"
        words += f" against {rival}: {'within' if passed else 'beyond'} {limit}"
        if against["verdict"] == "cannot tell" and passed:
            needed = against["rows_needed"]
            words += f"; the interval reaches beyond it, {needed or 'no number of'} test rows would settle it"
        yield Check("policy.margin", passed, words, 0.0 if passed else shortfall / max(policy.margin, 1e-3))
        if policy.confidence is not None:
            low = shown_low(against, policy.confidence, matrix.get("confidence"))
            shortfall = -low - policy.margin
            passed = shortfall <= ROUNDING
            words = f"accuracy at worst {points(low)} against {rival}, at {policy.confidence:.0%} confidence: "
            words += f"{'within' if passed else 'beyond'} {limit}"
            yield Check("policy.confidence", passed, words, 0.0 if passed else shortfall / max(policy.margin, 1e-3))


def at_most(rule: str, value: float | None, limit: float, words: str, kind: str) -> Check:
    """`words` has the value; `kind`: cap or bound, with the limit in its unit."""
    if value is None:
        return Check(rule, False, f"{words}: not measured, and {kind} is set", 1.0)
    passed = value <= limit + ROUNDING
    excess = 0.0 if passed else value / limit - 1 if limit else value
    return Check(rule, passed, f"{words}: {'within' if passed else 'over'} {kind}", excess)


def cap_checks(row: Row, matrix: Mapping[str, Any], policy: Policy) -> Iterator[Check]:
    """What may get worse: against the reference, and against the champion where it was measured."""
    caps, champion = policy.caps, row["versus_champion"]
    if caps is None:
        return
    untested = [name for name, known in (row.get("classes") or {}).items() if not known["rows"]]
    if caps.worst_class_drop is not None and untested:
        kind = f"the cap of {caps.worst_class_drop * 100:g} points"
        yield at_most("policy.caps.worst_class_drop", None, caps.worst_class_drop, f"class {untested[0]}", kind)
    rivals: dict[str, Mapping[str, Any]] = {}
    if row["cell"] != matrix.get("reference"):
        rivals[f"the reference, {matrix.get('reference')}"] = row
    if champion is not None:
        rivals["the champion"] = champion
    for rival, against in rivals.items():
        if caps.flips is not None:
            share = (against.get("flips") or {}).get("right_to_wrong")
            told = "rows" if share is None else f"{share:.2%} of the rows"
            words = f"{told} right for {rival}, now wrong"
            yield at_most("policy.caps.flips", share, caps.flips, words, f"the cap of {caps.flips:.2%}")
        if caps.worst_class_drop is not None:
            change = against.get("class_change") or {}
            drop = -change["change"] if change.get("change") is not None else None
            what = f"class {change.get('class', '?')}, which lost most against {rival}"
            words = what if drop is None else f"{what}: {points(-drop)}"
            cap = f"the cap of {caps.worst_class_drop * 100:g} points"
            yield at_most("policy.caps.worst_class_drop", drop, caps.worst_class_drop, words, cap)
    if caps.ece is not None:
        ece = row.get("ece")
        words = "calibration error" if ece is None else f"calibration error {ece:.4f}"
        yield at_most("policy.caps.ece", ece, caps.ece, words, f"the cap of {caps.ece:g}")


def bound_checks(row: Row, policy: Policy) -> Iterator[Check]:
    bounds, at = policy.bounds, f"at batch {policy.batch_size}"
    asked = [
        ("latency_ms", latency(row, policy.batch_size), bounds.latency_ms, "ms", f" {at}"),
        ("size_mb", row["size_mb"], bounds.size_mb, "MB", ""),
        ("memory_mb", row.get("peak_memory_mb"), bounds.memory_mb, "MB", " at most, at the batch sizes of benchmark"),
        *(
            (
                f"batches.{one.batch_size}",
                latency(row, one.batch_size),
                one.latency_ms,
                "ms",
                f" at batch {one.batch_size}",
            )
            for one in bounds.batches
        ),
    ]
    for name, value, bound, unit, where in asked:
        if bound is not None:
            words = f"{unit}{where}" if value is None else f"{value:.3g} {unit}{where}"
            yield at_most(f"policy.bounds.{name}", value, bound, words, f"the bound of {bound:g} {unit}")


def certificate_check(row: Row, policy: Policy) -> Iterator[Check]:
    if policy.integer_share is None:
        return
    share = (row.get("certificate") or {}).get("integer_multiply_add_share")
    passed = share is not None and share >= policy.integer_share - ROUNDING
    told = "no INT8 certificate" if share is None else f"{share:.1%} of its multiply-adds in integer kernels"
    words = f"{told}: {'keeps' if passed else 'misses'} the {policy.integer_share:.1%} that its certificate must show"
    yield Check("policy.integer_share", passed, words, 0.0 if passed else policy.integer_share - (share or 0.0))


def checks(row: Row, matrix: Mapping[str, Any], policy: Policy) -> list[Check]:
    """Everything the policy has to say of one cell; never empty."""
    if row["status"] != "ok":
        return [Check("status", False, f"{row['status']}: {row['reason']}", float("inf"))]
    if not row["digest"] or row["accuracy"] is None or latency(row, policy.batch_size) is None:
        words = f"no build, accuracy or latency at batch {policy.batch_size} was measured"
        return [Check("status", False, words, float("inf"))]
    return [
        *accuracy_checks(row, matrix, policy),
        *cap_checks(row, matrix, policy),
        *bound_checks(row, policy),
        *certificate_check(row, policy),
    ]


def unasked(policy: Mapping[str, Any]) -> list[str]:
    """Gates that this policy, as plain data, leaves open."""
    caps, bounds = policy.get("caps") or {}, policy.get("bounds") or {}
    found = [f"policy.{name}" for name in ("confidence", "integer_share") if policy.get(name) is None]
    found += [f"policy.caps.{name}" for name in ("flips", "worst_class_drop", "ece") if caps.get(name) is None]
    return found + [
        f"policy.bounds.{name}" for name in ("latency_ms", "size_mb", "memory_mb") if bounds.get(name) is None
    ]
