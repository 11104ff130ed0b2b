"""The matrix: every cell measured side by side, paired against the reference, the champion and the best.

Cells are enumerated from params, never from folders: a removed variant leaves the table, and what was refused,
failed or could not be measured stands in it with its reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components import answers, picture, proof, reasons, report, runtime
from components.answers import Answers
from components.cell import Record
from components.data import Spec
from components.errors import TemperError
from components.params import Compare, OnnxFp32, Policy, Target, Variant

# Figures of a build that say in what it multiplies.
KERNELS = ("integer_nodes", "float_nodes", "half_nodes", "cast_nodes", "cuda_nodes", "cpu_nodes")

Seconds = Mapping[str, Mapping[int, np.ndarray]]  # cell, batch size: seconds of a call (rounds,)


def read_seconds(folder: Path) -> Seconds:
    import pandas as pd

    rounds = pd.read_parquet(folder / "rounds.parquet").sort_values("round")
    rounds["call"] = rounds["seconds"] / rounds["calls"]
    seconds: dict[str, dict[int, np.ndarray]] = {}
    for name, of_cell in rounds.groupby("cell"):
        for size in sorted(of_cell["batch_size"].unique()):
            turns = of_cell[of_cell["batch_size"] == size]
            seconds.setdefault(str(name), {})[int(size)] = turns["call"].to_numpy()
    return seconds


def parameters(model: Path) -> int:
    """Numbers in the model's weights, from the headers of its safetensors."""
    from safetensors import safe_open

    count = 0
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def timing(cell: str, reference: str, seconds: Seconds, confidence: float) -> dict[str, Any]:
    """Latency, and speed against the reference and eager, by batch size; empty where it was not timed."""
    mine = seconds.get(cell, {})

    def against(other: str) -> dict[str, list[float]]:
        theirs = seconds.get(other, {})
        return {
            str(size): list(proof.speed(theirs[size], values, confidence))
            for size, values in mine.items()
            if size in theirs
        }

    speedup = against(reference)
    return {
        "latency_ms": {str(size): float(np.median(values)) * 1000 for size, values in mine.items()},
        "speedup": speedup,
        "speed_verdict": {size: proof.speed_verdict(low, high) for size, (_, low, high) in speedup.items()},
        "speedup_eager": against("eager"),
    }


def beaten_by(cells: list[str], size: int, seconds: Seconds, confidence: float) -> dict[str, dict[str, list[float]]]:
    """For every cell those that are surely faster at this batch size, paired by round, and how many times."""
    timed = {cell: seconds[cell][size] for cell in cells if size in seconds.get(cell, {})}
    beaten: dict[str, dict[str, list[float]]] = {cell: {} for cell in cells}
    for cell, mine in timed.items():
        for other, theirs in timed.items():
            times, low, high = proof.speed(mine, theirs, confidence)
            if proof.speed_verdict(low, high) == "faster":
                beaten[cell][other] = [times, low, high]
    return beaten


def certificate(
    built: Record, cells: tuple[str, str, str], profiles: Mapping[str, Any], seconds: Seconds, isa: list[str], size: int
) -> dict[str, Any] | None:
    """The INT8 certificate of a build at a batch size; `cells`: its own name, its variant's fp32, the reference."""
    mine, fp32, reference = (seconds.get(cell, {}).get(size) for cell in cells)
    times = [
        float(np.median(other / mine)) if mine is not None and other is not None else None
        for other in (fp32, reference)
    ]
    measured, measured_fp32 = (profiles.get(cell, {}).get(str(size)) for cell in cells[:2])
    return reasons.told(built.figures.get("certificate"), measured, measured_fp32, isa, times[0], times[1], size)


def control(timed: dict[str, Any]) -> dict[str, Any]:
    """The A/A control's timing and, by batch size, the noise: what a speed must differ by to be seen here."""
    noise = {size: max(abs(low - 1), abs(high - 1)) for size, (_, low, high) in timed["speedup"].items()}
    return {**timed, "noise": noise}


def versus(mine: Answers | None, other: Answers | None, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """`mine` against `other` on the same rows; None if one of them has none."""
    if mine is None or other is None:
        return None
    if not np.array_equal(mine.row_id, other.row_id):
        raise TemperError(
            "compare: two cells were asked different test rows, so they cannot be paired; run `dvc repro -f -s` "
            "for the evaluate stage of the older one, or for champion"
        )
    return proof.accuracy(mine.labels, other.predictions, mine.predictions, **settings)


def quality(mine: Answers | None, reference: Answers | None, classes: list[str], settings: Mapping[str, Any]) -> Any:
    """The accuracy half of a row; every key, None where there is nothing to say."""
    against = versus(mine, reference, settings) or {}
    row: dict[str, Any] = dict.fromkeys(("accuracy", "worst_class", "worst_class_accuracy", "ece", "class_change"))
    if mine:
        right = mine.predictions == mine.labels
        by_class = {int(c): float(right[mine.labels == c].mean()) for c in np.unique(mine.labels)}
        worst = min(by_class, key=lambda c: by_class[c])
        row |= {
            "accuracy": mine.accuracy(),
            "worst_class": classes[worst],
            "worst_class_accuracy": by_class[worst],
            "ece": proof.calibration_error(mine.logits, mine.labels),
        }
    if mine and reference:
        changes = proof.class_changes(mine.labels, reference.predictions, mine.predictions)
        fell = min(changes, key=lambda c: changes[c])
        row["class_change"] = {"class": classes[fell], "change": changes[fell]}
    return row | {
        "accuracy_difference": against.get("difference"),
        "accuracy_low": against.get("low"),
        "accuracy_high": against.get("high"),
        **{key: against.get(key) for key in ("mcnemar_p", "flips", "verdict", "rows_needed")},
    }


def tracked(row: Mapping[str, Any], sizes: list[int]) -> dict[str, float]:
    """A cell's figures for the tracker: the same keys on every cell, NaN where it was not measured."""
    plain = [
        "parameters",
        "multiply_adds",
        "size_mb",
        "accuracy",
        "worst_class_accuracy",
        "accuracy_difference",
        "accuracy_low",
    ]
    plain += ["multiply_adds", "accuracy_high", "mcnemar_p", "ece", "load_ms", "peak_memory_mb"]
    figures = {key: row[key] for key in plain}
    for size in map(str, sizes):
        figures[f"latency_ms_{size}"] = row["latency_ms"].get(size)
        figures[f"speedup_{size}"] = row["speedup"].get(size, [None])[0]
        figures[f"speedup_eager_{size}"] = row["speedup_eager"].get(size, [None])[0]
    return {key: math.nan if value is None else float(value) for key, value in figures.items()}


def settings_of(section: Variant | Target, prefix: str) -> dict[str, Any]:
    """A variant's or target's params with dotted keys, so that trackers can set them against the figures."""
    import pandas as pd

    flat = pd.json_normalize(section.model_dump(by_alias=True), sep=".").iloc[0].to_dict()
    return {f"{prefix}.{key}": value for key, value in flat.items()}


def run(
    name: str,
    variants: Mapping[str, Variant],
    targets: Mapping[str, Target],
    compare: Compare,
    policy: Policy,
    seed: int,
    data: Path,
    models: Path,
    builds: Path,
    engines: Path,
    predictions: Path,
    champion: Path,
    timings: Path,
    host: Path,
    out: Path,
    cell: Callable[..., None],
) -> dict[str, Any]:
    """matrix.json, matrix.csv, measured.csv, confusion.csv, matrix.png and report.html; one tracked run a cell."""
    classes = Spec.read(data).classes
    settings = {
        "margin": policy.margin,
        "confidence": compare.confidence,
        "resamples": compare.resamples,
        "seed": seed,
    }
    names = [(variant, target) for variant in variants for target in targets]
    fp32 = next(name for name, target in targets.items() if isinstance(target, OnnxFp32))
    reference = f"{next(iter(variants))}/{fp32}"
    records = {f"{v}/{t}": Record.read(predictions / v / t) for v, t in names}
    answered = {at: answers.read(predictions / at) for at, record in records.items() if record.status == "ok"}
    footprints = json.loads((timings / "cells.json").read_text("utf-8"))
    seconds = read_seconds(timings)
    profiles, isa = json.loads((timings / "certificates.json").read_text("utf-8")), json.loads(host.read_text())["isa"]
    champion_record = Record.read(champion)
    champion_answers = answers.read(champion) if champion_record.status == "ok" else None
    # The first of the best in the order of params, so that ties do not hang on anything else.
    best = max(answered, key=lambda at: answered[at].accuracy()) if answered else None
    faster = beaten_by(list(records), policy.batch_size, seconds, compare.confidence)

    rows = []
    for variant, target in names:
        at = f"{variant}/{target}"
        build = runtime.folder_of(targets[target], at, builds, engines)
        built, foot = Record.read(build), footprints[at]
        # What answered may still have failed when it was timed.
        status, reason = records[at].status, records[at].reason
        if status == "ok":
            status, reason = foot["status"], foot["reason"]
        mine = answered.get(at)
        shipped = built.status == "ok"
        file = build / json.loads((build / "build.json").read_text("utf-8"))["file"] if shipped else None
        rows.append(
            {
                "cell": at,
                "variant": variant,
                "target": target,
                "kind": targets[target].kind,
                "pass": variants[variant].kind,
                "parent": variants[variant].parent,
                "status": status,
                "reason": reason,
                "digest": built.figures.get("digest"),
                "parameters": parameters(models / variant),
                "size_mb": file.stat().st_size / 1e6 if file else None,
                **quality(mine, answered.get(reference), classes, settings),
                **timing(at, reference, seconds, compare.confidence),
                "beaten_by": faster[at],
                "load_ms": foot.get("load_ms"),
                "peak_memory_mb": foot.get("peak_memory_mb"),
                "parity": built.figures.get("parity"),
                **{key: built.figures.get(key) for key in KERNELS},
                "multiply_adds": Record.read(builds / variant / "export").figures.get("multiply_adds"),
                "certificate": certificate(
                    built, (at, f"{variant}/{fp32}", reference), profiles, seconds, isa, policy.batch_size
                ),
                "versus_best": versus(mine, answered[best] if best else None, settings),
                "versus_champion": versus(mine, champion_answers, settings),
            }
        )

    matrix = {
        "name": name,
        "reference": reference,
        "best": best,
        "test_rows": len(next(iter(answered.values())).labels) if answered else 0,
        "host": json.loads(host.read_text("utf-8")),
        "batch_sizes": sorted({size for by_size in seconds.values() for size in by_size}),
        "batch_size": policy.batch_size,
        "confidence": compare.confidence,
        "margin": policy.margin,
        "rounds": max((len(values) for by_size in seconds.values() for values in by_size.values()), default=0),
        "cells": rows,
        "control": control(timing("control", reference, seconds, compare.confidence)),
        "eager": timing("eager", reference, seconds, compare.confidence),
        "champion": {
            "status": champion_record.status,
            "reason": champion_record.reason,
            **champion_record.figures,
            **quality(champion_answers, answered.get(reference), classes, settings),
        },
    }
    (out / "matrix.json").write_text(json.dumps(matrix, indent=2, allow_nan=False) + "\n", "utf-8")
    report.write_csv(matrix, out / "matrix.csv")
    report.write_measured(matrix, out / "measured.csv")
    shown = reference if reference in answered else best
    pairs = zip(answered[shown].labels, answered[shown].predictions, strict=True) if shown else ()
    report.write_confusion([(classes[label], classes[answer]) for label, answer in pairs], out / "confusion.csv")
    picture.draw(matrix, out / "matrix.png")
    report.write_html(matrix, out / "matrix.png", out / "report.html")

    for row in rows:
        identity = {key: row[key] for key in ("variant", "target", "kind", "pass", "parent")}
        params = {**identity, **settings_of(variants[row["variant"]], "variant")}
        params |= settings_of(targets[row["target"]], "target")
        tags = {**identity, "status": row["status"], "reason": row["reason"], "digest": row["digest"] or ""}
        tags["verdict"] = row["verdict"] or ""
        cell(row["cell"], params, tracked(row, matrix["batch_sizes"]), tags)
    return metrics(matrix)


def metrics(matrix: Mapping[str, Any]) -> dict[str, Any]:
    """What `dvc metrics` shows: {variant: {target: figures}} of the cells that are ok, and the control's speed."""
    size = str(matrix["batch_size"])
    shown: dict[str, Any] = {}
    for row in matrix["cells"]:
        if row["status"] != "ok":
            continue
        figures = {"accuracy": row["accuracy"], "size_mb": row["size_mb"]}
        if size in row["latency_ms"]:
            figures["latency_ms"] = row["latency_ms"][size]
        if size in row["speedup"]:
            figures["speedup"] = row["speedup"][size][0]
        shown.setdefault(row["variant"], {})[row["target"]] = figures
    if size in matrix["control"]["speedup"]:
        shown["control"] = {"speedup": matrix["control"]["speedup"][size][0]}
    return shown
