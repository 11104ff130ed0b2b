"""What the matrix says, in words that every form of the report shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from components import speed

Row = Mapping[str, Any]
FRONT = (
    "On the front: no other cell is at least as accurate, at least as small and as fast, and better in one of these. "
    "Latency compares by paired verdicts, not by medians: what cannot be told apart counts as equally fast."
)
NOISY = 0.05  # of the control: then intervals of one run do not hold for the next
HOW_TO_READ = (
    "Accuracy: difference to {reference} in points, paired on {rows:,} test rows, with its {confidence:.0%} interval "
    "and verdict against a margin of {margin:g} points. Latency{tokens}: median over {rounds} interleaved rounds; "
    "how many times as fast as {reference}, paired by round (where the machine is noisy, not the quotient of the "
    "medians), with its {confidence:.0%} interval; "
    "faster or slower if surely beyond {same:.0%} and the control's noise, same if surely within {near:.0%}."
)


def reading(matrix: Mapping[str, Any]) -> str:
    return HOW_TO_READ.format(
        reference=matrix["reference"],
        rows=matrix["test_rows"],
        confidence=matrix["confidence"],
        margin=matrix["margin"] * 100,
        tokens=f" of texts of {matrix['tokens']} tokens" if matrix.get("tokens") else "",
        rounds=matrix["rounds"],
        same=speed.SAME,
        near=speed.NEAR,
    )


def points(difference: float, *ends: float) -> str:
    """A difference of shares in points, with its interval: -0.3 [-1.2, +0.5]; never minus zero."""
    first, *rest = (f"{round(value * 100, 1) + 0.0:+.1f}" for value in (difference, *ends))
    return f"{first} [{', '.join(rest)}]" if rest else first


def accuracy_lines(row: Row, reference: str) -> tuple[str, str]:
    """(accuracy and verdict, difference and interval; what it takes to tell)"""
    if row["accuracy"] is None:
        return "", ""
    first = f"{row['accuracy'] * 100:.1f} %"
    if row.get("cell") == reference:
        return first, "the reference"
    if row["accuracy_difference"] is None:
        return first, ""
    needed = f"\nneeds {row['rows_needed']:,} rows" if row["rows_needed"] else ""
    return f"{first} {row['verdict']}", points(
        *(row[f"accuracy_{key}"] for key in ("difference", "low", "high"))
    ) + needed


def figure(value: float) -> str:
    """Three digits that matter, never as 1e-05."""
    digits = next((digits for below, digits in ((0.01, 5), (0.1, 4), (1, 3), (10, 2), (100, 1)) if value < below), 0)
    return f"{value:.{digits}f}"


def ratio(value: float, *ends: float) -> str:
    """1.92x [1.90, 1.95]: two decimals below 10, one below 100, none above."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    interval = f" [{', '.join(f'{end:.{digits}f}' for end in ends)}]" if ends else ""
    return f"{value:.{digits}f}x{interval}"


def speed_lines(row: Row, size: str, reference: str) -> tuple[str, str]:
    """(latency, ratio to the reference and interval, and whether that cannot tell) at one batch size"""
    if size not in row["latency_ms"]:
        return "", ""
    latency = f"{figure(row['latency_ms'][size])} ms"
    if size not in row["speedup"] or row.get("cell") == reference:
        return latency, ""
    unsure = row["speed_verdict"].get(size) == "cannot tell"
    return latency, ratio(*row["speedup"][size]) + (" cannot tell" if unsure else "")


def calls_words(row: Row, size: str) -> str:
    """What single calls took at their worst, and rows a second."""
    calls = row["latency"].get(size)
    if not calls:
        return ""
    told = [f"{name} {figure(calls[f'{name}_ms'])}" for name in ("p95", "p99") if calls[f"{name}_ms"] is not None]
    return "; ".join([f"{', '.join(told)} ms"] * bool(told) + [f"{calls['rows_per_s']:,.0f} rows/s"])


def energy_words(matrix: Mapping[str, Any]) -> str:
    energy = matrix["energy"]
    if energy["counter"]:
        return f"Energy: read from {energy['counter']}."
    return f"Energy: not measured, {energy['reason']}."


def integer_words(row: Row) -> str:
    """The certificate in one line: what share really ran in integers. Empty if the build claims no INT8."""
    certificate = row["certificate"]
    if not certificate:
        return ""
    shares = {"of multiply-adds": "integer_multiply_add_share", "of time": "integer_time_share"}
    told = [f"{certificate[key]:.0%} {what}" for what, key in shares.items() if certificate[key] is not None]
    return (", ".join(told) or "no share") + " in integer kernels"


def kernel_words(row: Row) -> str:
    """In what a build multiplies, where it is not plain float32: why it may be slower than it looks."""
    integer, floats, halves, casts = (row.get(f"{key}_nodes") for key in ("integer", "float", "half", "cast"))
    left = row.get("cpu_nodes")
    if left is not None:
        return f"{sum(left.values())} nodes on the processor, {sum(row['cuda_nodes'].values())} on CUDA"
    if integer:
        others = f", {sum(floats.values())} in floats" if floats is not None else ""
        return f"{sum(integer.values())} layers in integers{others}"
    if row.get("kind") == "onnx_fp16" and casts and floats is not None:
        return f"{sum((halves or {}).values())} of {sum(floats.values())} layers in half precision, {casts} casts"
    return ""


def size_lines(row: Row, reference: Row | None) -> tuple[str, str]:
    if row["size_mb"] is None:
        return "", ""
    times = reference["size_mb"] / row["size_mb"] if reference and reference["size_mb"] else None
    return figure(row["size_mb"]), f"{times:.1f}x smaller" if times and times > 1.05 else ""


def reference_row(matrix: Mapping[str, Any]) -> Row | None:
    return next((row for row in matrix["cells"] if row["cell"] == matrix["reference"]), None)


def reasons(matrix: Mapping[str, Any]) -> dict[str, int]:
    """Every reason a cell is not ok, numbered; cells often share one."""
    told = dict.fromkeys(row["reason"] for row in matrix["cells"] if row["status"] != "ok")
    return {reason: number for number, reason in enumerate(told, 1)}


def control_words(matrix: Mapping[str, Any]) -> str:
    """What the A/A control says of every speed in the table."""
    control = matrix["control"]
    if not control["speedup"]:
        return "No A/A control: the reference was not measured."
    parts = [
        f"batch {size} {times:.3f}x [{low:.3f}, {high:.3f}] {control['speed_verdict'][size]}"
        for size, (times, low, high) in control["speedup"].items()
    ]
    noise = max(control["noise"].values())
    words = f"Control, the reference against its own copy: {', '.join(parts)}. Noise: {noise:.1%}."
    if noise > NOISY:
        words += " So noisy a machine gives other speeds in another run, beyond these intervals, which are of this one."
    verdicts = set(control["speed_verdict"].values())
    if verdicts & {"faster", "slower"}:
        words += " It must read same: do not trust the speeds, measure again on a quiet machine."
    elif "cannot tell" in verdicts:
        words += " The machine was too noisy to tell small differences in speed: measure again when it is quiet."
    return words


def seen_words(matrix: Mapping[str, Any]) -> str:
    """What flatters the champion, if rows were split in another way when it was trained; else empty."""
    share = matrix["champion"].get("trained_on_share", 0.0)
    if share is None:
        return "the champion's rows were told apart by another key, so it may have been trained on these test rows"
    return f"about {share:.0%} of these test rows may be what the champion was trained on" if share else ""


def on_front(row: Row) -> bool:
    """Whether nothing dominates the cell; a list is empty for it, and None where nothing was measured."""
    return bool(row["dominated_by"] == [])


def front_words(matrix: Mapping[str, Any]) -> str:
    """Which cells are on the front; in words where none is."""
    if matrix["front"]:
        return f"The front: {', '.join(matrix['front'])}. {FRONT}"
    counts = Counter(row["status"] for row in matrix["cells"])
    told = ", ".join(f"{count} {'not timed' if status == 'ok' else status}" for status, count in counts.items())
    return f"No cell is on the front, as none was measured in full: of {len(matrix['cells'])} cells, {told}."


def standing(cell: str, decision: Mapping[str, Any]) -> str:
    """Why a cell with a better figure may not be the chosen one; the decision's own words tell the rest."""
    if cell in decision.get("level", []):
        return "level"
    broken = decision.get("cells", {}).get(cell, {}).get("misses", [])
    if not broken:
        return ""
    # "misses margin" for policy.margin: what is said under a cell's name widens its column.
    return "not eligible" if broken[0] == "status" else f"misses {broken[0].rpartition('.')[2]}"


def notes(matrix: Mapping[str, Any]) -> list[str]:
    """How to read the matrix, and what its speeds are worth."""
    return [reading(matrix), front_words(matrix), control_words(matrix), energy_words(matrix)]
