"""Parity: two programs that claim to be the same model answer real rows alike, or the gate refuses.

Over a grid of cases that the task gives: exporters and quantizers go wrong at some batch sizes or lengths only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components import runtime
from components.data import Spec, read_rows
from components.diagnosis import Answer, Result, diagnose
from components.errors import Refused
from components.params import Parity
from components.session import ONNX_SESSION, OnnxSession
from components.tasks import TASKS

# Which figure of a case which key of `parity` limits.
EXPORT = {"agreement": "min_export_agreement", "max_logit_difference": "max_export_difference"}
BUILD = {"agreement": "min_build_agreement", "kl": "max_build_kl"}
WORDS = {"max_logit_difference": "largest logit difference", "kl": "mean KL divergence"}


def kl_divergence(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Mean over rows of KL(reference || candidate) of the class probabilities, in nats. Logits (rows, classes)."""
    from scipy.special import log_softmax

    p, q = (log_softmax(logits.astype(np.float64), axis=1) for logits in (reference, candidate))
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


def compare(reference: np.ndarray, candidate: np.ndarray) -> dict[str, float | None]:
    """Figures of two answers, logits (rows, classes), to the same rows; None where a logit is not finite."""
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        return dict.fromkeys(("agreement", "max_logit_difference", "kl"))
    return {
        "agreement": float((reference.argmax(1) == candidate.argmax(1)).mean()),
        "max_logit_difference": float(np.abs(reference - candidate).max()),
        "kl": kl_divergence(reference, candidate),
    }


def complaint(
    place: str,
    answers: tuple[np.ndarray, np.ndarray],
    figures: Mapping[str, Any],
    parity: Parity,
    limits: Mapping[str, str],
) -> str | None:
    """Which limit the answers to one case break, in words."""
    rows = len(answers[0])
    for side, logits in zip(place.split(" -> "), answers, strict=True):
        if broken := int((~np.isfinite(logits)).any(1).sum()):
            return f"{side} answers NaN or infinity for {broken} of {rows} rows"
    for figure, name in limits.items():
        limit, found = getattr(parity, name), figures[figure]
        if figure == "agreement" and found < limit:
            wrong = round((1 - found) * rows)
            return f"{wrong} of {rows} top answers differ, agreement {found:.4g} < {limit:g} (parity.{name})"
        if figure != "agreement" and limit is not None and found > limit:
            return f"{WORDS[figure]} {found:.3g} > {limit:g} (parity.{name})"
    return None


def check(
    place: str,
    reference: Answer,
    candidate: Answer,
    inputs: Mapping[str, np.ndarray],
    spec: Spec,
    parity: Parity,
    limits: Mapping[str, str],
    halved: Path | None = None,
) -> dict[str, Any]:
    """Figures over the task's grid: {agreement, max_logit_difference, kl: the worst of it, grid: [one a case]}.

    `place` names the step ("torch -> ONNX"), `limits` is EXPORT or BUILD; `halved` is the float32 graph of a
    candidate in half precision. Raises Refused, which has these figures, where a limit is broken or
    shapes differ: it names the first case of the grid where that is so and, if one explains it, the fault.
    """
    results: list[Result] = []
    grid: list[dict[str, Any]] = []
    task, refusal = TASKS[spec.task], None
    for case in task.grid(inputs, parity):
        ours, theirs, rows = [], [], batches(case.inputs, case.batch_size, parity.rows)
        for batch in rows:
            ours.append(reference(batch))
            theirs.append(candidate(batch))
            if ours[-1].shape != theirs[-1].shape:
                found, wanted = theirs[-1].shape, ours[-1].shape
                raise Refused(f"{place}, {case.where}: logits have shape {found}, must have {wanted}")
        answers = np.concatenate(ours), np.concatenate(theirs)
        figures = compare(*answers)
        words = complaint(place, answers, figures, parity, limits)
        if words and refusal is None:
            refusal = f"{place}, {case.where}: {words}"
        grid.append({"case": case.where, "batch_size": case.batch_size, "rows": len(answers[0]), **figures})
        joined = {name: np.concatenate([batch[name] for batch in rows]) for name in case.inputs}
        results.append(Result(case, joined, *answers, broken=words is not None))

    def worst(key: str, pick: Callable[[list[float]], float]) -> float | None:
        values = [row[key] for row in grid if row[key] is not None]
        return pick(values) if values else None

    overall = {
        "agreement": worst("agreement", min),
        "max_logit_difference": worst("max_logit_difference", max),
        "kl": worst("kl", max),
        "grid": grid,
    }
    if refusal:
        why = diagnose(reference, results, task.suspects(spec), spec.classes, halved)
        raise Refused("; ".join(filter(None, [refusal, why])), {"parity": overall})
    return overall


def check_build(name: str, exported: Path, folder: Path, data: Path, parity: Parity, threads: int) -> dict[str, Any]:
    """Figures of the build in `folder`, opened as it ships, against the exported graph, on validation rows."""
    spec = Spec.read(data)
    reference = OnnxSession(exported.read_bytes(), ONNX_SESSION, threads, spec, str(exported))
    rows, opened = read_rows(data, "validation", spec).inputs, runtime.open_build(folder, threads)
    place, halved = f"ONNX -> {name}", exported if in_half(folder) else None
    return check(place, reference.run, opened.run, rows, spec, parity, BUILD, halved)


def in_half(folder: Path) -> bool:
    """Whether the build in `folder` computes in half precision; an engine does wherever it is not INT8."""
    import onnx

    file = folder / json.loads((folder / "build.json").read_text("utf-8"))["file"]
    if file.suffix != ".onnx":
        return True
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in onnx.load(file).graph.initializer)
