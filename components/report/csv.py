"""The matrix as CSV, whole and for `dvc plots`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def safe(value: object) -> object:
    """Text that a spreadsheet would run as a formula (a class may be called so) with an apostrophe before it."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def flat_row(row: Mapping[str, Any], sizes: list[str], at: str) -> dict[str, Any]:
    """One cell with a column for each figure; `latency_ms` and `speedup` are at batch size `at`, and once at each."""
    plain = ["cell", "variant", "target", "kind", "pass", "parent", "status", "reason", "digest", "sha256"]
    plain += ["parameters", "multiply_adds", "size_mb", "rows", "accuracy", "worst_class", "worst_class_accuracy"]
    plain += [
        "accuracy_difference",
        "accuracy_low",
        "accuracy_high",
        "interval",
        "mcnemar_p",
        "verdict",
        "rows_needed",
        "ece",
    ]
    plain += ["load_ms", "load_low_ms", "load_high_ms", "peak_memory_mb"]
    line = {key: row.get(key) for key in plain}
    nested = {
        "": ("flips", ("gained", "lost", "changed", "right_to_wrong", "wrong_to_right")),
        "ece_change_": ("ece_change", ("difference", "low", "high")),
        "class_change_": ("class_change", ("class", "change", "low", "high", "rows")),
        "parity_": ("parity", ("agreement", "max_logit_difference", "kl")),
        "certificate_": ("certificate", ("integer_multiply_add_share", "integer_weight_share", "integer_time_share")),
    }
    for prefix, (name, keys) in nested.items():
        line |= {f"{prefix}{key}": (row[name] or {}).get(key) for key in keys}
    line["on_front"] = None if row["dominated_by"] is None else str(not row["dominated_by"]).lower()
    line["dominated_by"] = " ".join(row["dominated_by"] or [])
    line |= {"latency_ms": row["latency_ms"].get(at), "speedup": row["speedup"].get(at, [None])[0]}
    for size in sizes:
        times, low, high = row["speedup"].get(size, [None] * 3)
        line |= {f"latency_ms_{size}": row["latency_ms"].get(size), f"speedup_{size}": times}
        line |= {f"speedup_{size}_low": low, f"speedup_{size}_high": high}
        line[f"speed_verdict_{size}"] = row["speed_verdict"].get(size)
        line[f"speedup_eager_{size}"] = row["speedup_eager"].get(size, [None])[0]
        calls = row["latency"].get(size, {})
        line |= {f"{key}_{size}": calls.get(key) for key in ("p95_ms", "p99_ms", "rows_per_s")}
        line[f"energy_mj_{size}"] = row["energy_mj"].get(size)
    return {key: safe(value) for key, value in line.items()}


def write_matrix(matrix: Mapping[str, Any], path: Path) -> None:
    """One row a cell, empty where it has no figure."""
    sizes, at = [str(size) for size in matrix["batch_sizes"]], str(matrix["batch_size"])
    flat = [flat_row(row, sizes, at) for row in matrix["cells"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)


def write_measured(matrix: Mapping[str, Any], path: Path) -> None:
    """The cells that were measured, for `dvc plots`: what is empty in matrix.csv would be drawn at zero."""
    at = str(matrix["batch_size"])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "accuracy", "latency_ms", "size_mb", "on_front"])
        for row in matrix["cells"]:
            if row["status"] == "ok":
                figures = [row["accuracy"], row["latency_ms"].get(at), row["size_mb"]]
                writer.writerow([row["cell"], *figures, str(row["dominated_by"] == []).lower()])


def write_confusion(pairs: Iterable[tuple[str, str]], path: Path) -> None:
    """Columns actual and predicted, one row a test row; only the header if nothing answered."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("actual", "predicted"), *((safe(a), safe(b)) for a, b in pairs)])
