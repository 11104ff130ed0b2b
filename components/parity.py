"""Parity: two programs that claim to be the same model answer real rows alike, or the gate refuses.

A grid over batch sizes, since exporters and quantizers go wrong at some sizes only (1 above all).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components import runtime
from components.data import Spec, read_rows
from components.errors import Refused
from components.params import Parity
from components.session import ONNX_SESSION, OnnxSession

Answer = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # raw inputs to logits (batch, classes)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    answer: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return answer


def kl_divergence(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Mean over rows of KL(reference || candidate) of the class probabilities, in nats. Logits (rows, classes)."""
    p, q = log_softmax(reference.astype(np.float64)), log_softmax(candidate.astype(np.float64))
    return max(float((np.exp(p) * (p - q)).sum(1).mean()), 0.0)


def batches(inputs: Mapping[str, np.ndarray], batch_size: int, rows: int) -> list[dict[str, np.ndarray]]:
    """At most `rows` rows in whole batches, at least one; too few rows are used again to fill it."""
    available = len(next(iter(inputs.values())))
    count = max(min(rows, available) // batch_size, 1)
    order = np.arange(count * batch_size) % available
    return [
        {name: np.ascontiguousarray(values[part]) for name, values in inputs.items()}
        for part in order.reshape(count, batch_size)
    ]


def compare(reference: np.ndarray, candidate: np.ndarray) -> dict[str, float]:
    """Figures of two answers, logits (rows, classes), to the same rows."""
    return {
        "agreement": float((reference.argmax(1) == candidate.argmax(1)).mean()),
        "max_logit_difference": float(np.abs(reference - candidate).max()),
        "kl": kl_divergence(reference, candidate),
    }


def check(
    place: str,
    reference: Answer,
    candidate: Answer,
    inputs: Mapping[str, np.ndarray],
    parity: Parity,
    min_agreement: tuple[str, float],
    max_difference: tuple[str, float] | None = None,
) -> dict[str, Any]:
    """Figures over the grid: {agreement, max_logit_difference, kl: the worst of it, grid: [one a batch size]}.

    `place` names the step ("torch -> ONNX"), the limits come as (name in parity, value). Raises Refused
    where a limit is broken, shapes differ, or a logit is not finite.
    """
    grid = []
    for size in parity.batch_sizes:
        where = f"{place}, batch {size}"
        ours, theirs = [], []
        for batch in batches(inputs, size, parity.rows):
            ours.append(reference(batch))
            theirs.append(candidate(batch))
            if ours[-1].shape != theirs[-1].shape:
                raise Refused(f"{where}: logits have shape {theirs[-1].shape}, must have {ours[-1].shape}")
        answers = np.concatenate(ours), np.concatenate(theirs)
        for side, logits in zip(place.split(" -> "), answers, strict=True):
            if broken := int((~np.isfinite(logits)).any(1).sum()):
                raise Refused(f"{where}: {side} answers NaN or infinity for {broken} of {len(logits)} rows")
        figures = compare(*answers)
        if figures["agreement"] < min_agreement[1]:
            wrong = round((1 - figures["agreement"]) * len(answers[0]))
            raise Refused(
                f"{where}: {wrong} of {len(answers[0])} top answers differ, agreement "
                f"{figures['agreement']:.4g} < {min_agreement[1]:g} (parity.{min_agreement[0]})"
            )
        if max_difference and figures["max_logit_difference"] > max_difference[1]:
            raise Refused(
                f"{where}: largest logit difference {figures['max_logit_difference']:.3g} > "
                f"{max_difference[1]:g} (parity.{max_difference[0]})"
            )
        grid.append({"batch_size": size, "rows": len(answers[0]), **figures})
    return {
        "agreement": min(row["agreement"] for row in grid),
        "max_logit_difference": max(row["max_logit_difference"] for row in grid),
        "kl": max(row["kl"] for row in grid),
        "grid": grid,
    }


def check_build(name: str, exported: Path, folder: Path, data: Path, parity: Parity, threads: int) -> dict[str, Any]:
    """Figures of the build in `folder`, opened as it ships, against the exported graph, on validation rows."""
    spec = Spec.read(data)
    reference = OnnxSession(exported.read_bytes(), ONNX_SESSION, threads, spec, str(exported))
    limits = ("min_build_agreement", parity.min_build_agreement)
    rows = read_rows(data, "validation", spec).inputs
    return check(f"ONNX -> {name}", reference.run, runtime.open_build(folder, threads).run, rows, parity, limits)
