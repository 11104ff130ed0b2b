"""The test rows whose answers compression changed most, with what they show: where to look before promoting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from components.answers import Answers
from components.data import Rows

MOST = 20


def rows(
    answered: Mapping[str, Answers],
    reference: str,
    classes: list[str],
    asked: Rows,
    shown: Callable[[Rows, np.ndarray], list[str]],
) -> list[dict[str, Any]]:
    """At most MOST rows that a cell answers otherwise than the reference, those of most cells first.

    Among rows of as many cells: those in which the reference's answer lost most probability over all cells.
    `shown` is the task's: (rows, row numbers) to what a page shows of them. All cells answered `asked`, in order.
    """
    from scipy.special import softmax

    others = {cell: answers for cell, answers in answered.items() if cell != reference}
    if reference not in answered or not others:
        return []
    base = answered[reference]
    number = np.arange(len(base.labels))
    flips = sum((answers.predictions != base.predictions).astype(int) for answers in others.values())
    was = softmax(base.logits.astype(np.float64), axis=1)[number, base.predictions]
    is_now = (softmax(answers.logits.astype(np.float64), axis=1) for answers in others.values())
    lost = sum(was - shares[number, base.predictions] for shares in is_now)
    worst = np.lexsort((base.row_id, -np.asarray(lost), -np.asarray(flips)))[:MOST]
    worst = worst[np.asarray(flips)[worst] > 0]
    where = {str(row_id): at for at, row_id in enumerate(asked.row_id)}
    inputs = shown(asked, np.array([where[str(base.row_id[row])] for row in worst], dtype=np.int64))
    return [
        {
            "row_id": str(base.row_id[row]),
            "label": classes[base.labels[row]],
            "reference": classes[base.predictions[row]],
            "cells": {cell: classes[answers.predictions[row]] for cell, answers in others.items()},
            "flips": int(np.asarray(flips)[row]),
            "input": shows,
        }
        for row, shows in zip(worst, inputs, strict=True)
    ]
