"""The rows that compression changed most: the right ones, in order, with what they show."""

from __future__ import annotations

import numpy as np

from components import changed
from components.answers import Answers
from components.data import Rows

CLASSES = ["a", "b", "c"]


def answers(logits: np.ndarray, labels: np.ndarray) -> Answers:
    ids = np.array([f"r{i}" for i in range(len(labels))])
    return Answers(ids, labels, logits.argmax(1), logits.astype(np.float32))


def shown(rows: Rows, numbers: np.ndarray) -> list[str]:
    return [f"text {rows.inputs['text'][number]}" for number in numbers]


def asked(order: np.ndarray) -> Rows:
    return Rows(np.array([f"r{i}" for i in order]), {"text": order}, np.zeros(len(order), int))


def test_rows_that_most_cells_flip_come_first_then_those_that_lose_most() -> None:
    labels = np.array([0, 1, 2, 0, 1])
    sure = np.eye(3)[labels] * 4
    one, two = sure.copy(), sure.copy()
    one[1], two[1] = [4, 3.99, 0], [0, 3.99, 4]  # both cells flip row 1, and lose less than at row 3
    one[2] = [3, 0, 2.9]  # one of them row 2, narrowly
    one[3], two[3] = [4, 3.9, 0], [0, 9, 0]  # one of them row 3, and surely; the other nearly
    answered = {name: answers(logits, labels) for name, logits in (("x/a", one), ("ref/a", sure), ("y/a", two))}
    found = changed.rows(answered, "ref/a", CLASSES, asked(np.array([4, 3, 2, 1, 0])), shown)
    assert [(row["row_id"], row["flips"]) for row in found] == [("r1", 2), ("r3", 1), ("r2", 1)]
    assert found[0]["input"] == "text 1"  # found by its id, whatever the order
    assert (found[0]["label"], found[0]["reference"]) == ("b", "b")
    assert found[0]["cells"] == {"x/a": "a", "y/a": "c"}


def test_at_most_twenty_and_none_without_a_flip_or_a_reference() -> None:
    labels = np.zeros(50, int)
    sure = np.eye(3)[labels]
    flipped = np.eye(3)[np.ones(50, int)]
    both = {"ref/a": answers(sure, labels), "x/a": answers(flipped, labels)}
    assert len(changed.rows(both, "ref/a", CLASSES, asked(np.arange(50)), shown)) == changed.MOST
    assert changed.rows({**both, "x/a": both["ref/a"]}, "ref/a", CLASSES, asked(np.arange(50)), shown) == []
    assert changed.rows({"x/a": both["x/a"]}, "ref/a", CLASSES, asked(np.arange(50)), shown) == []
    assert changed.rows({"ref/a": both["ref/a"]}, "ref/a", CLASSES, asked(np.arange(50)), shown) == []
