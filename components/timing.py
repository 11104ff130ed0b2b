"""What benchmark measured, read back with suspicion, and what it says of each cell's speed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import rounds, speed
from components.errors import TemperError
from components.rounds import REMEDY, Medians, Turns


def read(folder: Path, cells: list[str], host: Mapping[str, Any]) -> tuple[dict[str, Any], Turns, Any]:
    """(cells.json, the rounds, machine.json) of benchmark.

    Raises TemperError if one of them is broken, they do not belong together or to these cells, or were made on a
    machine other than `host`.
    """
    foot, machine = read_json(folder / "cells.json"), read_json(folder / "machine.json")
    if missing := sorted({"host", "threads", "processors", "tokens", "energy"} - set(machine)):
        raise TemperError(f"{folder}/machine.json: does not say {', '.join(missing)}; {REMEDY}")
    there = machine["host"]
    if other := [field for field in there if there[field] != host.get(field)]:
        words = ", ".join(f"{field} {there[field]!r}, here {host.get(field)!r}" for field in other)
        raise TemperError(f"{folder}: was timed on another machine ({words}); {REMEDY}")
    turns = rounds.read(folder)
    if missing := [cell for cell in cells if "status" not in foot.get(cell, {})]:
        raise TemperError(f"{folder}/cells.json: says nothing of {', '.join(missing)}; {REMEDY}")
    if strangers := sorted(set(turns) - set(cells) - {"eager", "control"}):
        raise TemperError(f"{folder}/{rounds.FILE}: times {', '.join(strangers)}, of another params.yaml; {REMEDY}")
    for cell in cells:
        wanted = sorted(foot[cell].get("batch_sizes", []))
        if sorted(turns.get(cell, {})) != wanted:
            raise TemperError(
                f"{folder}/{rounds.FILE}: times {cell} at batch {list(turns.get(cell, {}))}, cells.json says {wanted}; "
                f"{REMEDY}"
            )
    return foot, turns, machine


def read_json(path: Path) -> dict[str, Any]:
    """Raises TemperError, naming the file, if it is absent or holds something else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TemperError(f"{path}: cannot be read ({error}); {REMEDY}") from None
    if not isinstance(content, dict):
        raise TemperError(f"{path}: must be a mapping, got {type(content).__name__}; {REMEDY}")
    return content


def of(
    cell: str, reference: str, turns: Turns, medians: Medians, noise: Mapping[int, float], confidence: float
) -> dict[str, Any]:
    """Latency, and speed against the reference and eager, by batch size; empty where it was not timed."""

    def against(other: str) -> dict[str, list[float]]:
        theirs = medians.get(other, {})
        return {
            str(size): list(speed.ratio(theirs[size], values, confidence))
            for size, values in medians.get(cell, {}).items()
            if size in theirs
        }

    latency = {str(size): rounds.latency(by_round, size) for size, by_round in turns.get(cell, {}).items()}
    speedup = against(reference)
    return {
        "latency_ms": {size: of_calls["p50_ms"] for size, of_calls in latency.items()},
        "latency": latency,
        "speedup": speedup,
        "speed_verdict": {
            size: "same" if cell == reference else speed.verdict(low, high, noise.get(int(size), 0.0))
            for size, (_, low, high) in speedup.items()
        },
        "speedup_eager": against("eager"),
    }


def beaten_by(
    cells: list[str], size: int, medians: Medians, noise: float, confidence: float
) -> dict[str, dict[str, list[float]]]:
    """For every cell those that are surely faster at this batch size, paired by round, and how many times."""
    timed = {cell: medians[cell][size] for cell in cells if size in medians.get(cell, {})}
    beaten: dict[str, dict[str, list[float]]] = {cell: {} for cell in cells}
    for cell, mine in timed.items():
        for other, theirs in timed.items():
            times, low, high = speed.ratio(mine, theirs, confidence)
            if speed.verdict(low, high, noise) == "faster":
                beaten[cell][other] = [times, low, high]
    return beaten


def control(timed: dict[str, Any]) -> dict[str, Any]:
    """The A/A control's timing and, by batch size, the noise: what a speed must differ by to be seen here."""
    return {**timed, "noise": {size: speed.noise(low, high) for size, (_, low, high) in timed["speedup"].items()}}
