"""A matrix with every key that matrix.json may have, as if five variants had been measured, and texts that bite."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from components import compare, front, matrix_json, timing

EVIL = "<script>alert(1)</script> [bold] | x"
VARIANTS = {"base": "train", "lora": "lora", "pruned": "prune", "distilled": "distill", "compact": "prune"}
TARGETS = {"fp32": "onnx_fp32", "int8_dynamic": "onnx_int8_dynamic", "int8_static": "onnx_int8_static"}
TIMES = {"base": 1.0, "lora": 1.0, "pruned": 0.55, "distilled": 0.06, "compact": 0.04}
RIGHT = {"base": 0.981, "lora": 0.983, "pruned": 0.975, "distilled": 0.97, "compact": 0.964}
MB = {"base": 1.83, "lora": 1.83, "pruned": 0.95, "distilled": 0.34, "compact": 0.12}
CHARGE = {"fp32": (1.0, 1.0, 0.0), "int8_dynamic": (1.9, 0.29, -0.003), "int8_static": (0.7, 0.3, -0.008)}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAANklEQVR4nGNgYGD4DwQMDAwMTEDM8J+BgZGB4T8D"
    "E5DGwmBiYGBgYGBkYGBgYPjPwPCfAQB0ggoFXRH8QgAAAABJRU5ErkJggg=="
)

GATE = {"agreement": 1.0, "max_logit_difference": 0.013, "kl": 1e-9, "grid": []}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def paired(difference: float, rows: int) -> dict[str, Any]:
    low, high = difference - 0.009, difference + 0.008
    verdict = "better" if low > 0 else "no worse" if low >= -0.02 else "worse" if high < -0.02 else "cannot tell"
    lost = max(round(-difference * rows), 0) + 2
    gained = lost + round(difference * rows)
    shares = {"right_to_wrong": lost / rows, "wrong_to_right": gained / rows}
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "mcnemar_p": 0.34,
        "flips": {"gained": gained, "lost": lost, "changed": (gained + lost + 1) / rows, **shares},
        "verdict": verdict,
        "rows_needed": 1234 if verdict == "cannot tell" else None,
        "ece_change": {"difference": 0.004, "low": -0.002, "high": 0.011},
        "class_change": {
            "class": "8",
            "change": difference * 3,
            "low": difference * 3 - 0.05,
            "high": 0.02,
            "rows": 36,
        },
    }


def certificate(slow: bool) -> dict[str, Any]:
    layers = [
        {"name": "head", "op": "MatMulInteger", "kernel": "VNNI", "multiply_adds": 9600, "time_share": 0.2},
        {"name": "attention", "op": "MatMul", "kernel": "float32", "multiply_adds": 5000, "time_share": 0.3},
    ]
    return {
        "integer_multiply_add_share": 0.66,
        "integer_weight_share": 1.0,
        "integer_time_share": None if slow else 0.4,
        "isa": ["avx2", "avx512_vnni"],
        "layers": [{**layer, "integer": layer["op"] == "MatMulInteger"} for layer in layers],
        "reasons": ["attention has no integer kernel in ONNX Runtime"] if slow else [],
    }


def off(variant: str, target: str, kind: str, status: str, reason: str) -> dict[str, Any]:
    """A cell without figures."""
    keys = "digest sha256 rows size_mb accuracy accuracy_difference accuracy_low accuracy_high mcnemar_p verdict"
    keys += " rows_needed flips worst_class worst_class_accuracy class_change classes ece ece_change load_ms"
    keys += " peak_memory_mb parity certificate versus_best versus_champion dominated_by"
    keys += " interval load_low_ms load_high_ms loads"
    tables = "latency_ms latency speedup speedup_eager speed_verdict beaten_by energy_mj"
    return {
        "cell": f"{variant}/{target}",
        "variant": variant,
        "target": target,
        "kind": kind,
        "pass": VARIANTS[variant],
        "parent": "init" if variant == "base" else "base",
        "status": status,
        "reason": reason,
        "parameters": 450_000,
        "multiply_adds": 1_800_000,
        **dict.fromkeys(keys.split()),
        **{key: {} for key in tables.split()},
        **dict.fromkeys(compare.KERNELS),
    }


def matrix(rows: int = 360) -> dict[str, Any]:
    """15 cells that are ok, one of each other status, at batches 1 and 32; the reference is base/fp32."""
    rng = np.random.default_rng(0)
    drift = rng.lognormal(0, 0.2, 40)
    seconds: dict[str, dict[int, np.ndarray]] = {}
    scaled = {f"{v}/{t}": TIMES[v] * CHARGE[t][0] * 1e-3 for v in VARIANTS for t in TARGETS}
    for name, took in {**scaled, "control": 1e-3, "eager": 2.6e-3}.items():
        seconds[name] = {size: took * n * drift * rng.lognormal(0, 0.02, 40) for size, n in ((1, 1), (32, 9))}
    turns = {name: {size: values[:, None] for size, values in of.items()} for name, of in seconds.items()}
    beaten = timing.beaten_by(list(scaled), 1, seconds, 0.0, 0.95)
    cells = []
    for variant in VARIANTS:
        for target, kind in TARGETS.items():
            at, (_, bytes_, fall) = f"{variant}/{target}", CHARGE[target]
            against = paired(RIGHT[variant] + fall - RIGHT["base"], rows)
            timed = timing.of(at, "base/fp32", turns, seconds, {}, 0.95)
            cells.append(
                off(variant, target, kind, "ok", "")
                | {
                    "digest": sha(at),
                    "sha256": sha(f"{at}.onnx"),
                    "rows": rows,
                    "size_mb": MB[variant] * bytes_,
                    "accuracy": RIGHT[variant] + fall,
                    **{f"accuracy_{key}": against[key] for key in ("difference", "low", "high")},
                    **{key: against[key] for key in ("mcnemar_p", "verdict", "rows_needed", "flips", "ece_change")},
                    "worst_class": "8",
                    "worst_class_accuracy": 0.91,
                    "class_change": against["class_change"],
                    "classes": {str(n): {"rows": 36, "accuracy": 0.97, "change": -0.01 * (n % 3)} for n in range(10)},
                    "ece": 0.021,
                    **timed,
                    # So few calls have no 99th percentile.
                    "latency": {
                        size: {**of, "p99_ms": of["p95_ms"] * 1.5, "rows_per_s": 1000.0}
                        for size, of in timed["latency"].items()
                    },
                    "beaten_by": beaten[at],
                    "load_ms": 12.0,
                    "peak_memory_mb": 5.5,
                    "energy_mj": {"1": None, "32": None},
                    "parity": {**GATE, "export": {**GATE, "max_logit_difference": 1.2e-6}},
                    "interval": "score",
                    "load_low_ms": 11.0,
                    "load_high_ms": 14.0,
                    "loads": 5,
                    "certificate": certificate(timed["speedup"]["1"][0] < 1) if "int8" in kind else None,
                    "versus_best": against,
                    "versus_champion": paired(0.001, rows),
                }
            )
    cells += [
        off("base", "trt_fp16", "tensorrt", "not measured", "no CUDA device"),
        off("lora", "trt_fp16", "tensorrt", "refused", f"parity: {EVIL}"),
        off("pruned", "trt_fp16", "tensorrt", "failed", "RuntimeError: planted"),
    ]
    dominating = front.dominated_by(cells, 1)
    for cell in cells:
        cell["dominated_by"] = dominating[cell["cell"]]
    changed = [
        {
            "row_id": f"row-{number}",
            "label": "8",
            "reference": "8",
            "cells": {cell["cell"]: "3" if n > number else "8" for n, cell in enumerate(cells[1:15])},
            "flips": 13 - number,
            "input": PIXEL if number else EVIL,
        }
        for number in range(12)
    ]
    best = max((cell for cell in cells if cell["status"] == "ok"), key=lambda cell: float(cell["accuracy"]))
    return {
        "schema": matrix_json.VERSION,
        "name": "digits",
        "reference": "base/fp32",
        "reference_status": "ok",
        "best": best["cell"],
        "test_rows": rows,
        "host": {"machine": "A processor", "isa": ["avx2"], "cores": 2, "gpu": None, "driver": None},
        "versions": {"python": "3.11.2", "onnxruntime": "1.32.0"},
        "data_sha256": sha("data"),
        "threads": 2,
        "processors": [0, 1],
        "tokens": None,
        "batch_sizes": [1, 32],
        "batch_size": 1,
        "confidence": 0.95,
        "margin": 0.02,
        "rounds": 40,
        "front": [cell for cell, by in dominating.items() if by == []],
        "cells": cells,
        "control": timing.control(timing.of("control", "base/fp32", turns, seconds, {}, 0.95)),
        "eager": timing.of("eager", "base/fp32", turns, seconds, {}, 0.95),
        "champion": {"status": "not measured", "reason": "no model is registered as champion yet"},
        "energy": {"counter": None, "reason": "no RAPL counter can be read on this machine"},
        "changed_rows": changed,
    }
