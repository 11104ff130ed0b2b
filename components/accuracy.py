"""The accuracy half of a row of the matrix: one cell's answers against another's, on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components import answers, proof
from components.answers import Answers


@dataclass(frozen=True)
class Judged:
    """Answers that were found to be to the test rows, with the resamples of their calibration."""

    answers: Answers
    calibration: proof.Calibration

    @classmethod
    def read(cls, folder: Path, split: Path, settings: Mapping[str, Any]) -> Judged:
        """Raises TemperError, which names the file, if they are not the answers to the rows of `split`."""
        given = answers.read(folder)
        answers.check(given, folder, split)
        drawn = proof.calibration(given.logits, given.labels, settings["resamples"], settings["seed"])
        return cls(given, drawn)


def versus(
    mine: Judged | None, other: Judged | None, classes: list[str], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """`mine` against `other` on the same rows; None if one of them has none.

    As `proof.accuracy` says it, with rows, class_change (of the class that lost most) and ece_change.
    """
    if mine is None or other is None:
        return None
    ours, theirs = mine.answers, other.answers
    against = proof.accuracy(
        ours.labels,
        theirs.predictions,
        ours.predictions,
        identical=np.array_equal(ours.logits, theirs.logits),
        **settings,
    )
    by_class = class_changes(mine, other, classes, settings["confidence"])
    fell = min((name for name in by_class if by_class[name]["rows"]), key=lambda name: by_class[name]["change"])
    shown = ("change", "low", "high", "rows")
    return against | {
        "rows": len(ours.labels),
        "class_change": {"class": fell, **{key: by_class[fell][key] for key in shown}},
        "ece_change": proof.calibration_change(other.calibration, mine.calibration, settings["confidence"]),
    }


def class_changes(mine: Judged, other: Judged, classes: list[str], confidence: float) -> dict[str, dict[str, Any]]:
    """`proof.class_changes` by the classes' names; of a class without test rows nothing is known."""
    ours, theirs = mine.answers, other.answers
    changes = proof.class_changes(ours.labels, theirs.predictions, ours.predictions, confidence)
    unknown = {"rows": 0} | dict.fromkeys(("accuracy", "change", "low", "high"))
    return {name: changes.get(number, unknown) for number, name in enumerate(classes)}


# What a row says of a cell against the reference, by the same names as `versus`.
AGAINST = ("mcnemar_p", "interval", "flips", "verdict", "rows_needed", "class_change", "ece_change")


def quality(mine: Judged | None, reference: Judged | None, classes: list[str], settings: Mapping[str, Any]) -> Any:
    """The accuracy half of a row; every key, None where there is nothing to say."""
    against = versus(mine, reference, classes, settings) or {}
    row: dict[str, Any] = dict.fromkeys(("rows", "accuracy", "worst_class", "worst_class_accuracy", "ece"))
    if mine:
        given = mine.answers
        right = given.predictions == given.labels
        by_class = {int(c): float(right[given.labels == c].mean()) for c in np.unique(given.labels)}
        worst = min(by_class, key=lambda c: by_class[c])
        row |= {
            "rows": len(given.labels),
            "accuracy": given.accuracy(),
            "worst_class": classes[worst],
            "worst_class_accuracy": by_class[worst],
            "ece": mine.calibration.error,
        }
    return row | {
        "accuracy_difference": against.get("difference"),
        "accuracy_low": against.get("low"),
        "accuracy_high": against.get("high"),
        **{key: against.get(key) for key in AGAINST},
        "classes": class_changes(mine, reference, classes, settings["confidence"]) if mine and reference else None,
    }
