"""The report as one HTML file, a pure rendering of matrix.json and decision.json: no script, font, link or clock.

Every text in it is escaped by the template engine; images are the data URIs of `changed_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.report import plot, words

Row = Mapping[str, Any]
TEMPLATE = Path(__file__).with_name("page.html")
TONE = {"better": "good", "no worse": "good", "faster": "good", "worse": "bad", "slower": "bad", "cannot tell": "open"}
MOST_CLASSES = 24  # columns of a table that can still be read
IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*\Z")


def lines(first: str, *more: str, tone: str = "", number: bool = True) -> dict[str, Any]:
    """One cell of a table: a figure, and below it what belongs to it."""
    small = [line for text in more for line in text.splitlines() if line]
    return {"first": first, "small": small, "tone": tone, "number": number}


def accuracy(row: Row, reference: str) -> dict[str, Any]:
    tone = "" if row["cell"] == reference else TONE.get(row["verdict"] or "", "")
    of = f"n = {row['rows']:,}" if row["rows"] else ""
    return lines(*words.accuracy_lines(row, reference), of, tone=tone, number=False)


def flips(row: Row, reference: str) -> dict[str, Any]:
    found = row["flips"]
    if not found or row["cell"] == reference:
        return lines("")
    changed = f"{found['changed']:.1%} of answers differ"
    p = f"McNemar p {row['mcnemar_p']:.3g}" if row["mcnemar_p"] is not None else ""
    return lines(f"+{found['gained']} / -{found['lost']}", changed, p)


def worst_class(row: Row) -> dict[str, Any]:
    change = row["class_change"]
    if not change:
        return lines("")
    told = words.points(*(change[key] for key in ("change", "low", "high")))
    return lines(change["class"], told, f"n = {change['rows']:,}", tone="bad" if change["high"] < 0 else "")


def calibration(row: Row) -> dict[str, Any]:
    change = row["ece_change"]
    told = f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]" if change else ""
    return lines(f"{row['ece']:.3f}" if row["ece"] is not None else "", told)


def speed(row: Row, size: str, reference: str) -> dict[str, Any]:
    latency, times = words.speed_lines(row, size, reference)
    verdict = row["speed_verdict"].get(size, "") if times else ""
    told = f"{times.removesuffix(verdict).strip()} {verdict}".strip()
    energy = row["energy_mj"].get(size)
    joules = f"{words.figure(energy)} mJ a row" if energy is not None else ""
    return lines(latency, told, words.calls_words(row, size), joules, tone=TONE.get(verdict, ""))


def eager(row: Row, size: str) -> dict[str, Any]:
    found = row["speedup_eager"].get(size)
    return lines(words.ratio(found[0]), words.ratio(*found).partition(" ")[2]) if found else lines("")


def memory(row: Row) -> dict[str, Any]:
    peak = row["peak_memory_mb"]
    load = f"{row['load_ms']:.0f} ms" if row["load_ms"] is not None else ""
    ends = [row.get(key) for key in ("load_low_ms", "load_high_ms")]
    told = f"[{ends[0]:.0f}, {ends[1]:.0f}] of {row['loads']}" if None not in ends and row.get("loads", 1) > 1 else ""
    return lines(load, told, f"{peak:.1f} MB at its peak" if peak is not None else "")


def matrix_table(matrix: Mapping[str, Any], decision: Mapping[str, Any]) -> dict[str, Any]:
    sizes, reference = [str(size) for size in matrix["batch_sizes"]], words.reference_row(matrix)
    body = []
    for row in matrix["cells"]:
        line: dict[str, Any] = {"cell": row["cell"], "notes": [], "status": row["status"], "reason": row["reason"]}
        body.append(line)
        if row["status"] != "ok":
            continue
        standing = words.standing(row["cell"], decision)
        chosen = (decision.get("winner") or {}).get("cell") == row["cell"]
        told = ["★ chosen" if chosen else standing, "◆ on the front" if words.on_front(row) else ""]
        told.append("" if row["certificate"] else words.kernel_words(row))
        line["notes"] = [note for note in told if note]
        line["cells"] = [
            accuracy(row, matrix["reference"]),
            *(speed(row, size, matrix["reference"]) for size in sizes),
            lines(*words.size_lines(row, reference)),
            flips(row, matrix["reference"]),
            worst_class(row),
            calibration(row),
            *(eager(row, size) for size in sizes),
            memory(row),
        ]
    heads = ["accuracy", *(f"latency, batch {size}" for size in sizes), "MB", "rows gained / lost"]
    heads += ["class that fell most", "ECE", *(f"vs eager, batch {size}" for size in sizes), "load"]
    return {"heads": heads, "rows": body}


def classes_table(matrix: Mapping[str, Any]) -> dict[str, Any] | None:
    """Change of each class in points, cell by cell; of many classes those that fell most somewhere."""
    rows = [row for row in matrix["cells"] if row["classes"] and row["cell"] != matrix["reference"]]
    if not rows:
        return None
    fell: dict[str, float] = {}
    for row in rows:
        for name, found in row["classes"].items():
            fell[name] = min(fell.get(name, 0.0), found["change"] or 0.0)
    shown = sorted(fell, key=lambda name: fell[name])[:MOST_CLASSES]
    named = [name for name in fell if name in shown]  # in the order of the classes
    count = {name: found["rows"] for row in rows for name, found in row["classes"].items()}

    def change(row: Row, name: str) -> dict[str, Any]:
        found = row["classes"].get(name)
        value = found["change"] if found else None
        tone = "" if value is None else "bad" if value < -matrix["margin"] else "good" if value > 0 else ""
        return lines("" if value is None else words.points(value), tone=tone)

    return {
        "classes": [{"name": name, "rows": count[name]} for name in named],
        "rows": [{"cell": row["cell"], "cells": [change(row, name) for name in named]} for row in rows],
        "left_out": len(fell) - len(named),
    }


def changed(matrix: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that compression changed most; the cells that answer otherwise, by their answer."""
    found = []
    for row in matrix["changed_rows"]:
        answers: dict[str, list[str]] = {}
        for cell, answer in row["cells"].items():
            if answer != row["reference"]:
                answers.setdefault(answer, []).append(cell)
        image = IMAGE.match(row["input"]) is not None
        found.append({**row, "answers": answers, "of": len(row["cells"]), "image": image})
    return found


def certificates(matrix: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"cell": row["cell"], "slower": row["speed_verdict"].get(str(matrix["batch_size"])) == "slower", **found}
        for row in matrix["cells"]
        if (found := row["certificate"])
    ]


def parity(found: Mapping[str, Any] | None) -> str:
    """The worst of the gate's grid in one line."""
    if not found:
        return ""
    told = [f"{found['agreement']:.1%} equal"] if found.get("agreement") is not None else []
    figures = {"max_logit_difference": "logit", "kl": "KL"}
    told += [f"{name} {found[key]:.1e}" for key, name in figures.items() if found.get(key) is not None]
    return ", ".join(told)


def policy_words(decision: Mapping[str, Any]) -> str:
    policy = decision["policy"]
    caps, bounds = policy.get("caps") or {}, policy["bounds"]
    asked = [
        (caps.get("flips"), "at most {:.2%} of the rows right before and now wrong"),
        (caps.get("worst_class_drop"), "no class worse by more than {:.2%}"),
        (caps.get("ece"), "calibration error at most {:g}"),
        (bounds["latency_ms"], "latency at most {:g} ms"),
        (bounds["size_mb"], "size at most {:g} MB"),
        (bounds.get("memory_mb"), "memory at most {:g} MB"),
        *((one["latency_ms"], f"at batch {one['batch_size']} {{:g}} ms") for one in bounds.get("batches", [])),
        (policy.get("integer_share"), "an INT8 certificate of at least {:.1%}"),
    ]
    limits = ", ".join(words.format(limit) for limit, words in asked if limit is not None)
    sure = f" with {policy['confidence']:.0%} confidence" if policy.get("confidence") is not None else ""
    return (
        f"The policy: {policy['metric']}{sure} at most {policy['margin'] * 100:g} points below the best cell and the "
        f"champion; {limits or 'no bounds'}; then the best {policy['objective']} at batch {policy['batch_size']}."
    )


def render(matrix: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    """The page. `decision` was made of this very matrix."""
    from jinja2 import Environment, StrictUndefined

    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = env.from_string(TEMPLATE.read_text("utf-8"))
    size = str(matrix["batch_size"])
    return template.render(
        matrix=matrix,
        decision=decision,
        policy=policy_words(decision),
        plot=plot.drawing(matrix, decision),
        front=[row for row in matrix["cells"] if words.on_front(row)],
        size=size,
        table=matrix_table(matrix, decision),
        classes=classes_table(matrix),
        changed=changed(matrix),
        certificates=certificates(matrix),
        words=words,
        parity=parity,
    )
