"""The matrix: every cell measured side by side, paired against the reference, the champion and the best.

Cells are enumerated from params, never from folders: a removed variant leaves the table, and what was refused,
failed or could not be measured stands in it with its reason.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from components import changed, figures, front, matrix_json, picture, reasons, rounds, runtime, timing
from components.accuracy import Judged, quality, versus
from components.cell import Record
from components.data import Spec, read_rows
from components.hashing import sha256_tree
from components.params import Compare, OnnxFp32, Policy, Target, Variant
from components.report import csv, markdown
from components.schemas import SCHEMAS

# Figures of a build that say in what it multiplies.
KERNELS = ("integer_nodes", "float_nodes", "half_nodes", "cast_nodes", "cuda_nodes", "cpu_nodes")

# What the figures may hang on, as installed when the cells were compared.
PACKAGES = ("temper", "numpy", "scipy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu13")
ARTIFACTS = ("matrix.json", "matrix.csv", "matrix.md", "matrix.png")  # of the pipeline's tracked run


def versions() -> dict[str, str]:
    """Python and the packages among PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def parameters(model: Path) -> int:
    """Numbers in the model's weights, from the headers of its safetensors."""
    from safetensors import safe_open

    count = 0
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def parity_of(built: Record, export: Record) -> dict[str, Any] | None:
    """The gate's figures, ONNX -> build, with those of torch -> ONNX as `export`; None where a build has none.

    What a build was refused for has them too.
    """
    found = built.figures.get("parity")
    return {**found, "export": export.figures.get("parity")} if found else None


def certificate(
    built: Record,
    cells: tuple[str, str, str],
    profiles: Mapping[str, Any],
    medians: rounds.Medians,
    isa: list[str],
    size: int,
) -> dict[str, Any] | None:
    """The INT8 certificate of a build at a batch size; `cells`: its own name, its variant's fp32, the reference."""
    mine, fp32, reference = (medians.get(cell, {}).get(size) for cell in cells)
    times = [
        float(np.median(other / mine)) if mine is not None and other is not None else None
        for other in (fp32, reference)
    ]
    measured, measured_fp32 = (profiles.get(cell, {}).get(str(size)) for cell in cells[:2])
    return reasons.told(built.figures.get("certificate"), measured, measured_fp32, isa, times[0], times[1], size)


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
    """matrix.json, matrix.csv, matrix.md, measured.csv, confusion.csv and matrix.png; one tracked run a cell."""
    spec = Spec.read(data)
    classes = spec.classes
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
    split = data / "test.parquet"
    answered = {
        at: Judged.read(predictions / at, split, settings) for at, record in records.items() if record.status == "ok"
    }
    known_host = json.loads(host.read_text("utf-8"))
    footprints, turns, machine = timing.read(timings, list(records), known_host)
    medians = rounds.medians(turns)
    copy = timing.control(timing.of("control", reference, turns, medians, {}, compare.confidence))
    noise = {int(size): reach for size, reach in copy["noise"].items()}
    profiles = timing.read_json(timings / "certificates.json")
    champion_record = Record.read(champion)
    champion_answers = Judged.read(champion, split, settings) if champion_record.status == "ok" else None
    # The first of the best in the order of params, so that ties do not hang on anything else.
    best = max(answered, key=lambda at: answered[at].answers.accuracy()) if answered else None
    at_policy = noise.get(policy.batch_size, math.inf)  # without a control no difference is told from noise
    faster = timing.beaten_by(list(records), policy.batch_size, medians, at_policy, compare.confidence)

    rows = []
    for variant, target in names:
        at = f"{variant}/{target}"
        build = runtime.folder_of(targets[target], at, builds, engines)
        built, export, foot = Record.read(build), Record.read(builds / variant / "export"), footprints[at]
        # What answered may still have failed when it was timed.
        status, reason = records[at].status, records[at].reason
        if status == "ok":
            status, reason = foot["status"], foot["reason"]
        mine = answered.get(at)
        shipped = built.status == "ok"
        card = json.loads((build / "build.json").read_text("utf-8")) if shipped else None
        file = build / card["file"] if card else None
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
                "sha256": card["sha256"] if card else None,
                "parameters": parameters(models / variant),
                "size_mb": file.stat().st_size / 1e6 if file else None,
                **quality(mine, answered.get(reference), classes, settings),
                **timing.of(at, reference, turns, medians, noise, compare.confidence),
                "beaten_by": faster[at],
                **{key: foot.get(key) for key in ("load_ms", "load_low_ms", "load_high_ms", "loads")},
                "peak_memory_mb": foot.get("peak_memory_mb"),
                "energy_mj": foot.get("energy_mj", {}),
                "parity": parity_of(built, export),
                **{key: built.figures.get(key) for key in KERNELS},
                "versus_best": versus(mine, answered[best] if best else None, classes, settings),
                "versus_champion": versus(mine, champion_answers, classes, settings),
                "multiply_adds": export.figures.get("multiply_adds"),
                "certificate": certificate(
                    built, (at, f"{variant}/{fp32}", reference), profiles, medians, known_host["isa"], policy.batch_size
                ),
            }
        )

    dominating = front.dominated_by(rows, policy.batch_size)
    for row in rows:
        row["dominated_by"] = dominating[row["cell"]]
    matrix = {
        "schema": matrix_json.VERSION,
        "name": name,
        "reference": reference,
        "reference_status": next(row["status"] for row in rows if row["cell"] == reference),
        "best": best,
        "test_rows": len(next(iter(answered.values())).answers.labels) if answered else 0,
        "versions": versions(),
        "data_sha256": sha256_tree(data),
        "host": known_host,
        "threads": machine["threads"],
        "processors": machine["processors"],
        "energy": machine["energy"],
        "tokens": machine["tokens"],
        "batch_sizes": sorted({size for by_size in turns.values() for size in by_size}),
        "batch_size": policy.batch_size,
        "confidence": compare.confidence,
        "margin": policy.margin,
        "rounds": max((len(by_size.get(policy.batch_size, ())) for by_size in turns.values()), default=0),
        "front": [cell for cell, by in dominating.items() if by == []],
        "cells": rows,
        "control": copy,
        "eager": timing.of("eager", reference, turns, medians, noise, compare.confidence),
        "champion": {
            "status": champion_record.status,
            "reason": champion_record.reason,
            **champion_record.figures,
            **quality(champion_answers, answered.get(reference), classes, settings),
        },
        "changed_rows": changed.rows(
            {at: judged.answers for at, judged in answered.items()},
            reference,
            classes,
            read_rows(data, "test", spec, texts=True),
            SCHEMAS[spec.task].shown,
        ),
    }
    matrix_json.check(matrix, "compare")
    (out / "matrix.json").write_text(json.dumps(matrix, indent=2, allow_nan=False) + "\n", "utf-8")
    csv.write_matrix(matrix, out / "matrix.csv")
    csv.write_measured(matrix, out / "measured.csv")
    (out / "matrix.md").write_text(markdown.page(matrix), "utf-8")
    shown = reference if reference in answered else best
    pairs = zip(answered[shown].answers.labels, answered[shown].answers.predictions, strict=True) if shown else ()
    csv.write_confusion([(classes[label], classes[answer]) for label, answer in pairs], out / "confusion.csv")
    picture.draw(matrix, out / "matrix.png")

    for row in rows:
        identity = {key: row[key] for key in ("variant", "target", "kind", "pass", "parent")}
        params = {**identity, **figures.settings(variants[row["variant"]], "variant")}
        params |= figures.settings(targets[row["target"]], "target")
        tags = {**identity, "status": row["status"], "reason": row["reason"], "digest": row["digest"] or ""}
        tags["verdict"] = row["verdict"] or ""
        cell(row["cell"], params, figures.of_cell(row, matrix["batch_sizes"]), tags)
    return figures.of_matrix(matrix)
