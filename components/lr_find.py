"""The learning-rate range test (Smith, arXiv 1506.01186): a few steps of a pass while the learning rate rises.

The rate rises exponentially. The loss is smoothed by an exponential moving average without its bias to zero, and the
test ends when that is four times its best, as in fastai's `lr_find`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from components.errors import TrainingError
from components.make import start
from components.params import Variant
from components.passes import PASSES

SMOOTHING = 0.9  # of the old in the moving average; it follows the loss by about 9 steps
DIVERGED = 4.0  # times the best smoothed loss
SLOPE_DECADES = 0.5  # to each side of a rate, over which the slope of the loss is taken: less would follow the noise
FALL = 0.02  # of the first loss: a curve that falls by less suggests nothing
VALIDATION_ROWS = 64  # passes measure validation at each epoch; nobody looks at it here


@dataclass(frozen=True)
class Point:
    learning_rate: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class Suggestion:
    steepest: float  # where the smoothed loss falls fastest
    minimum: float  # where it is least; a tenth of this is the other usual rule


class Ended(Exception):
    """The range test has seen all it needs."""


class RangeTest:
    """A `components.model.Probe`."""

    def __init__(self, lowest: float, highest: float, steps: int, watch: Callable[[Point], None]) -> None:
        self.points: list[Point] = []
        self.diverged = False
        self._lowest, self._highest, self._steps, self._watch = lowest, highest, steps, watch
        self._average = 0.0
        self._best = math.inf

    def learning_rate(self, step: int) -> float:
        return float(self._lowest * (self._highest / self._lowest) ** (step / (self._steps - 1)))

    def see(self, loss: float) -> None:
        """Raises Ended after the last step, and when the loss has diverged."""
        if not math.isfinite(loss):
            self.diverged = True
            raise Ended
        step = len(self.points)
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        smoothed = self._average / (1 - SMOOTHING ** (step + 1))
        self.points.append(Point(self.learning_rate(step), loss, smoothed))
        self._watch(self.points[-1])
        self._best = min(self._best, smoothed)
        self.diverged = smoothed > DIVERGED * self._best
        if self.diverged or len(self.points) == self._steps:
            raise Ended


def suggest(points: list[Point]) -> Suggestion | None:
    """None where the loss hardly falls."""
    if len(points) < 3:
        return None
    smoothed = [point.smoothed for point in points]
    least = min(range(len(points)), key=smoothed.__getitem__)
    if smoothed[least] > (1 - FALL) * smoothed[0]:
        return None
    decades = math.log10(points[1].learning_rate / points[0].learning_rate)
    # On both sides of every rate, and so never next to the minimum, from where it is not far to divergence.
    reach = max(1, min(round(SLOPE_DECADES / decades), least // 2))
    steepest = min(
        range(reach, max(reach, least - reach) + 1), key=lambda at: smoothed[at + reach] - smoothed[at - reach]
    )
    return Suggestion(points[steepest].learning_rate, points[least].learning_rate)


def run(
    variant: Variant,
    seed: int,
    threads: int,
    test: RangeTest,
    steps: int,
    *,
    data: Path,
    parent: Path,
) -> None:
    """Fill `test.points`. The pass runs as it would in `make`, but for the schedule, and nothing of it is kept.

    Raises TrainingError when the pass cannot even begin.
    """
    with tempfile.TemporaryDirectory(prefix="temper-lr-find-") as folder:
        model, context = start(seed, threads, lambda metrics, step: None, data, parent, Path(folder))
        rows = {"train": context.rows("train"), "validation": context.rows("validation").head(VALIDATION_ROWS)}
        # Epochs without end: each has at least one step, and the test ends itself.
        endless = variant.fit.model_copy(update={"epochs": steps, "patience": steps})
        try:
            PASSES[variant.kind](
                model, variant.model_copy(update={"fit": endless}), replace(context, rows=rows.__getitem__, probe=test)
            )
        except Ended:
            pass
        except TrainingError:
            if not test.points:
                raise
            test.diverged = True
    if not test.points:
        raise TrainingError("the very first loss is not a finite number: no learning rate will help")
