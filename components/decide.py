"""The policy's decision, a pure function of the matrix, the policy and the champion snapshot.

Feasible is a cell with status ok that passes every gate (components/gates.py): its accuracy is not below that of the
best cell or of the champion by more than the margin (on the same rows; where the interval reaches across the margin
the reasons say so), and it keeps the caps and bounds. Among these the objective decides. By latency, cells tie that no
feasible cell is surely faster than, paired by round: what is noisy ties, but never takes along what another cell surely
beats. A tie goes to the champion, so that noise alone replaces nothing, then to the more accurate, the smaller and the
first by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components import matrix_json
from components.gates import Check, checks
from components.hashing import sha256_file
from components.params import Policy
from components.report import page
from components.report.words import seen_words

Row = Mapping[str, Any]
ARTIFACTS = ("decision.json", "report.html")  # of the pipeline's tracked run


def ties(feasible: list[Row], policy: Policy) -> list[Row]:
    """The cells that are best by the objective, as far as it can be told."""
    if policy.objective == "accuracy":
        most = max(row["accuracy"] for row in feasible)
        return [row for row in feasible if row["accuracy"] == most]
    if policy.objective == "size_mb":
        least = min(row["size_mb"] for row in feasible)
        return [row for row in feasible if row["size_mb"] == least]
    rivals = {row["cell"] for row in feasible}
    unbeaten = [row for row in feasible if rivals.isdisjoint(row["beaten_by"])]
    # Who wins most rounds may run in a circle, as in votes.
    return unbeaten or [min(feasible, key=lambda row: (row["latency_ms"][str(policy.batch_size)], row["cell"]))]


def preferences(row: Row, champion: Mapping[str, Any]) -> dict[str, Any]:
    """What settles a tie, in this order; the least is preferred."""
    return {
        "the champion": row["digest"] != champion.get("digest"),
        "the more accurate": -row["accuracy"],
        "the smaller": row["size_mb"],
        "the first by name": row["cell"],
    }


def choice(tied: list[Row], champion: Mapping[str, Any], at: str, told_by: str) -> tuple[Row, str]:
    """(the preferred one, words: the best, or what it ties with and why it is preferred to the next)"""
    best, *others = sorted(tied, key=lambda row: tuple(preferences(row, champion).values()))
    if not others:
        return best, f"{best['cell']} has the best {at}"
    mine, next_best = preferences(best, champion), preferences(others[0], champion)
    why = next(words for words in mine if mine[words] != next_best[words])
    level = ", ".join(sorted(row["cell"] for row in others))
    words = f"{best['cell']} is level with {level} for the best {at}{told_by}, and preferred to {others[0]['cell']}"
    return best, f"{words} as {why}"


def slower_words(row: Row, rivals: set[str], batch_size: int) -> list[str]:
    """Why a feasible cell is not among the fastest: the one of them that beats it by most."""
    beaten = {cell: times for cell, times in row["beaten_by"].items() if cell in rivals}
    if not beaten:
        return []
    cell = min(beaten, key=lambda name: (-beaten[name][0], name))
    times, low, high = beaten[cell]
    return [f"{cell} is {times:.2f}x [{low:.2f}, {high:.2f}] as fast at batch {batch_size}, paired by round"]


def misses(made: list[Check]) -> list[str]:
    """The rules that a cell breaks."""
    return [check.rule for check in made if not check.passed]


def nearest_miss(missed: Mapping[str, list[Check]]) -> dict[str, Any] | None:
    """The measured cell that misses the policy by least, and what blocks it."""
    measured = {cell: made for cell, made in missed.items() if all(check.rule != "status" for check in made)}
    if not measured:
        return None
    cell = min(measured, key=lambda name: (sum(check.excess for check in measured[name]), name))
    blocked = [check for check in measured[cell] if not check.passed]
    return {"cell": cell, "rules": misses(measured[cell]), "reasons": [check.words for check in blocked]}


def statuses(rows: Iterable[Row]) -> str:
    """How many cells ended how, and why: "2 not measured (no CUDA device)"."""
    told: dict[str, list[str]] = {}
    for row in rows:
        told.setdefault("not timed" if row["status"] == "ok" else row["status"], []).append(row["reason"])
    why = {status: ", ".join(sorted({reason for reason in reasons if reason})) for status, reasons in told.items()}
    return "; ".join(f"{len(told[name])} {name}" + (f" ({why[name]})" if why[name] else "") for name in sorted(told))


def decide(matrix: Mapping[str, Any], policy: Policy, champion: Mapping[str, Any]) -> dict[str, Any]:
    """promote a cell, keep the champion, or none; with every cell's reasons."""
    rows: dict[str, Row] = {row["cell"]: row for row in matrix["cells"]}
    made = {cell: checks(row, matrix, policy) for cell, row in rows.items()}
    for cell, row in rows.items():
        if row["digest"] and row["digest"] in (champion.get("rolled_back") or ()):
            words = "this very build was rolled back; `temper rollback` to its version brings it back"
            made[cell] = [*made[cell], Check("status", False, words, float("inf"))]
    feasible = [row for cell, row in rows.items() if all(check.passed for check in made[cell])]
    missed = {cell: made[cell] for cell in made if any(not check.passed for check in made[cell])}
    failed = sorted(cell for cell, row in rows.items() if row["status"] == "failed")
    version, at = champion.get("version"), f"{policy.objective} of {len(feasible)} feasible cells of {len(rows)}"
    winner: dict[str, Any] | None = None
    miss = None
    level: list[str] = []
    slower: dict[str, list[str]] = {}
    if feasible:
        tied = ties(feasible, policy)
        # Not told apart is not the same: the reader can ask for more rounds.
        by_rounds = f" ({matrix['rounds']} rounds do not tell them apart)" if policy.objective == "latency_ms" else ""
        best, words = choice(tied, champion, at, by_rounds)
        winner = {key: best[key] for key in ("cell", "variant", "target", "digest")}
        level = sorted(row["cell"] for row in tied if row is not best)
        if policy.objective == "latency_ms":
            rivals = {row["cell"] for row in feasible}
            slower = {row["cell"]: slower_words(row, rivals, policy.batch_size) for row in feasible}
            outside = [
                f"{cell} ({', '.join(misses(made[cell]))})" for cell in sorted(best["beaten_by"]) if cell in missed
            ]
            words += f"; faster but not feasible: {', '.join(outside)}" if outside else ""
        action = "keep" if champion.get("digest") == best["digest"] else "promote"
        words += f"; it is version {version}, the champion already" if action == "keep" else ""
    else:
        action, miss = "none", nearest_miss(missed)
        words = "no cell meets the policy; " + (
            f"nearest: {miss['cell']}, blocked by {' and '.join(miss['rules'])} ({'; '.join(miss['reasons'])})"
            if miss
            else f"none was measured: {statuses(rows.values())}"
        )
    if version is not None and matrix["champion"]["status"] != "ok":
        words += f"; the champion was not compared: {matrix['champion']['reason']}"
    if version is not None and (flattered := seen_words(matrix)):
        words += f"; beware: {flattered}"
    control = matrix["control"].get("speed_verdict", {}).get(str(policy.batch_size), "none")
    if control == "none":
        words += "; beware: the reference was not timed against its own copy, so no speed can be told from noise"
    elif control == "cannot tell":
        words += "; beware: the machine was too noisy to tell small differences, measure again when it is quiet"
    elif control != "same":
        words += "; beware: the reference differed in speed from its own copy, measure again on a quiet machine"
    return {
        "action": action,
        "reason": words,
        "winner": winner,
        "level": level,  # with the winner, by the objective
        "champion": dict(champion),
        "objective": policy.objective,
        "policy": policy.model_dump(),
        "cells": {
            cell: {
                "feasible": cell not in missed,
                "misses": misses(made[cell]),
                "gates": [{"rule": gate.rule, "passed": gate.passed, "words": gate.words} for gate in made[cell]],
                "reasons": [*(check.words for check in made[cell]), *slower.get(cell, [])],
            }
            for cell in rows
        },
        "nearest_miss": miss,
        "failed": failed,
    }


def run(policy: Policy, matrix: Path, champion: Path, out: Path) -> dict[str, Any]:
    """decision.json, which names the matrix it is of, and report.html, which shows both."""
    source = matrix / "matrix.json"
    measured = matrix_json.read(source, "`dvc repro compare` makes it")
    snapshot = json.loads(champion.read_text("utf-8"))
    decision = decide(measured, policy, snapshot) | {"matrix_sha256": sha256_file(source)}
    (out / "report.html").write_text(page.render(measured, decision), "utf-8")
    (out / "decision.json").write_text(json.dumps(decision, indent=2, allow_nan=False) + "\n", "utf-8")
    size = str(policy.batch_size)
    chosen = next(
        (row for row in measured["cells"] if decision["winner"] and row["cell"] == decision["winner"]["cell"]), None
    )
    figures = {key: chosen[key] for key in ("accuracy", "size_mb")} if chosen else {}
    if chosen:
        figures["latency_ms"] = chosen["latency_ms"][size]
    if chosen and size in chosen["speedup"]:
        figures["speedup"] = chosen["speedup"][size][0]
    return {
        **{f"chosen_{name}": value for name, value in figures.items()},
        "feasible_cells": sum(cell["feasible"] for cell in decision["cells"].values()),
        "failed_cells": len(decision["failed"]),
    }
