"""What of the matrix the trackers show: MLflow a run a cell, DVC one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.params import Target, Variant


def of_cell(row: Mapping[str, Any], sizes: list[int]) -> dict[str, float]:
    """A cell's figures for the tracker: the same keys on every cell, NaN where it was not measured."""
    plain = ["parameters", "multiply_adds", "size_mb", "accuracy", "worst_class_accuracy", "accuracy_difference"]
    plain += ["accuracy_low", "accuracy_high", "mcnemar_p", "ece", "load_ms", "peak_memory_mb"]
    figures = {key: row[key] for key in plain}
    figures["on_front"] = None if row["dominated_by"] is None else not row["dominated_by"]
    shares = ("changed", "right_to_wrong", "wrong_to_right")
    figures |= {f"flips_{key}": (row["flips"] or {}).get(key) for key in shares}
    figures |= {f"ece_{key}": (row["ece_change"] or {}).get(key) for key in ("difference", "low", "high")}
    figures |= {f"class_{key}": (row["class_change"] or {}).get(key) for key in ("change", "low", "high")}
    for size in map(str, sizes):
        latency = row["latency"].get(size, {})
        figures[f"latency_ms_{size}"] = row["latency_ms"].get(size)
        figures |= {f"{key}_{size}": latency.get(key) for key in ("p95_ms", "p99_ms", "rows_per_s")}
        figures[f"energy_mj_{size}"] = row["energy_mj"].get(size)
        figures[f"speedup_{size}"] = row["speedup"].get(size, [None])[0]
        figures[f"speedup_eager_{size}"] = row["speedup_eager"].get(size, [None])[0]
    return {key: math.nan if value is None else float(value) for key, value in figures.items()}


def settings(section: Variant | Target, prefix: str) -> dict[str, Any]:
    """A variant's or target's params with dotted keys, so that trackers can set them against the figures."""
    import pandas as pd

    flat = pd.json_normalize(section.model_dump(by_alias=True), sep=".").iloc[0].to_dict()
    return {f"{prefix}.{key}": value for key, value in flat.items()}


def of_matrix(matrix: Mapping[str, Any]) -> dict[str, Any]:
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
