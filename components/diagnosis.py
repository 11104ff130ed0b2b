"""Why two programs that should be one model answer differently, in words: which known fault explains it.

A fault is named only if it explains the answers: with it put into the right program, nearly all of the difference is
gone. Else what is known is said, where the answers differ and where they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.data import Case, Suspect
from components.session import onnx_session

Answer = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # raw inputs to logits (batch, classes)

EXPLAINED = 0.1  # of the difference (root mean square over logits) may be left, which quantization makes
FITTED_ROWS = 8
FITTED_CALLS = 15  # steps of a fit; each takes a call for every value besides
HALF_MAX = 65504.0
PADDED = "only where rows are padded"


@dataclass(frozen=True)
class Result:
    """Two programs' answers to one case, over all its batches."""

    case: Case
    inputs: Mapping[str, np.ndarray]  # of the rows that were answered
    reference: np.ndarray  # logits (rows, classes)
    candidate: np.ndarray
    broken: bool  # a limit is broken here

    def difference(self) -> float:
        return float(np.abs(self.reference - self.candidate).max())


def left(reference: np.ndarray, candidate: np.ndarray, explained: np.ndarray) -> float:
    """The share of the difference between two programs' logits that an explanation of `candidate` leaves."""
    with np.errstate(all="ignore"):
        before = np.sqrt(np.mean((reference.astype(np.float64) - candidate) ** 2))
        after = np.sqrt(np.mean((explained.astype(np.float64) - candidate) ** 2))
    return float(after / before) if before > 0 and np.isfinite(after) else np.inf


def swapped_labels(result: Result, classes: Sequence[str]) -> str | None:
    """Whether the logits are the same numbers in another order."""
    from scipy.optimize import linear_sum_assignment

    ours, theirs = result.reference.astype(np.float64), result.candidate.astype(np.float64)
    distances = (ours**2).sum(0)[:, None] - 2 * ours.T @ theirs + (theirs**2).sum(0)[None]
    at = linear_sum_assignment(distances)[1]  # class i of ours stands at at[i] of theirs
    moved = [(i, int(j)) for i, j in enumerate(at) if i != j]
    explained = np.empty_like(ours)
    explained[:, at] = ours
    if not moved or left(ours, theirs, explained) > EXPLAINED:
        return None
    shown = [f"{classes[i]!r} stands at the place of {classes[j]!r}" for i, j in moved[:3]]
    more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
    return f"labels are swapped: the logits are the same numbers in another order, {', '.join(shown)}{more}"


def suspected(reference: Answer, result: Result, suspect: Suspect) -> str | None:
    """Whether this fault, put into the reference, gives the candidate's answers."""
    rows = slice(None, FITTED_ROWS)
    inputs = {name: values[rows] for name, values in result.inputs.items()}
    ours, theirs = result.reference[rows], result.candidate[rows]

    def residuals(values: Sequence[float]) -> np.ndarray:
        with np.errstate(all="ignore"):
            found = reference(suspect.change(inputs, values)).astype(np.float64) - theirs
        finite: np.ndarray = np.nan_to_num(found, nan=1e6, posinf=1e6, neginf=-1e6).ravel()
        return finite

    def unexplained(values: Sequence[float]) -> float:
        return left(ours, theirs, theirs + residuals(values).reshape(theirs.shape))

    best = min(suspect.values, key=unexplained)
    if unexplained(best) > EXPLAINED and suspect.fit:
        from scipy.optimize import least_squares

        start, size = np.asarray(best), np.abs(best)
        scale = np.where(size == 0, size.max(), size)

        def moved(steps: np.ndarray) -> list[float]:  # from ones: a step's length is a share of where it starts
            return [float(value) for value in start + (steps - 1) * scale]

        # Float32 answers: a smaller difference would be lost in their rounding.
        fitted = least_squares(
            lambda steps: residuals(moved(steps)), np.ones(len(start)), diff_step=1e-3, max_nfev=FITTED_CALLS
        )
        best = moved(fitted.x)
    return suspect.words(best) if unexplained(best) <= EXPLAINED else None


def overflow(exported: Path, inputs: Mapping[str, np.ndarray]) -> str | None:
    """The first node of the float32 graph whose result half precision cannot hold, for these rows."""
    import onnx

    model = onnx.load(exported)
    known = {output.name for output in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    opened = onnx_session(model.SerializeToString(), {}, 1)
    found = dict(zip([*known, *inner], opened.run([*known, *inner], dict(inputs)), strict=True))
    for node in model.graph.node:  # in the order in which they run
        for name in node.output:
            value = np.asarray(found[name]) if name else np.empty(0)
            if np.issubdtype(value.dtype, np.floating) and value.size:
                peak = float(np.abs(value).max())
                if peak > HALF_MAX:
                    return (
                        f"overflow in half precision, which ends at {HALF_MAX:.0f}: {node.op_type} "
                        f"{node.name or name} reaches {peak:.3g} in float32"
                    )
    return None


def where(results: Sequence[Result]) -> str:
    """In which cases of the grid the answers differ, if that says something."""
    broken = [result.case for result in results if result.broken]
    sound = [result.case for result in results if not result.broken]
    if not sound:
        return ""
    if all(case.padded for case in broken) and not all(case.padded for case in sound):
        return PADDED
    sizes = {case.batch_size for case in broken}
    if sizes.isdisjoint(case.batch_size for case in sound):
        return f"only at batch {', '.join(map(str, sorted(sizes)))}"
    return f"in {len(broken)} of {len(results)} cases"


def diagnose(
    reference: Answer,
    results: Sequence[Result],
    suspects: Sequence[Suspect],
    classes: Sequence[str],
    halved: Path | None,
) -> str:
    """Where the answers differ and what explains it; `halved` is the float32 graph of a half-precision candidate."""
    broken, place = [result for result in results if result.broken], where(results)
    infinite = [result for result in broken if not np.isfinite([result.reference, result.candidate]).all()]
    why: str | None = None
    if infinite:
        rows = ~np.isfinite(infinite[0].candidate).all(1)
        inputs = {name: values[rows][:FITTED_ROWS] for name, values in infinite[0].inputs.items()}
        if halved and np.isfinite(infinite[0].reference).all():
            why = overflow(halved, inputs)
    else:
        worst = max(broken, key=lambda result: result.difference())
        why = swapped_labels(worst, classes)
        for suspect in suspects:
            why = why or suspected(reference, worst, suspect)
        if halved and not why:  # to infinity and back, or cut off at the greatest number
            why = overflow(halved, {name: values[:FITTED_ROWS] for name, values in worst.inputs.items()})
        unknown = "no known fault explains it"
        why = why or (f"the mask or the padding id is read otherwise, {unknown}" if place == PADDED else unknown)
    return "; ".join(filter(None, [place, why]))
