"""Answers of one build, or of the champion, to the rows of a split: asked, kept row by row, and read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.data import Rows
from components.session import Session

# Dynamic INT8 takes its scales from the whole batch, so the batch is part of the answer: one size for all.
BATCH_SIZE = 32
FILE = "predictions.parquet"


@dataclass(frozen=True)
class Answers:
    row_id: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray  # class numbers
    logits: np.ndarray  # (rows, classes), float32

    def accuracy(self) -> float:
        return float((self.predictions == self.labels).mean())


def ask(session: Session, rows: Rows) -> Answers:
    """The last batch is filled up with its last row, which changes no scale: one shape for every call."""
    logits = []
    for start in range(0, len(rows), BATCH_SIZE):
        numbers = np.minimum(np.arange(start, start + BATCH_SIZE), len(rows) - 1)
        logits.append(session.run({name: values[numbers] for name, values in rows.inputs.items()}))
    joined = np.concatenate(logits)[: len(rows)]
    return Answers(rows.row_id, rows.labels, joined.argmax(1), joined)


def write(answers: Answers, folder: Path) -> None:
    """predictions.parquet with the columns row_id, label, prediction and logits (list<float32>)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, classes = answers.logits.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * classes)
    table = pa.table(
        {
            "row_id": pa.array(answers.row_id.tolist(), pa.string()),
            "label": pa.array(answers.labels.astype(np.int32)),
            "prediction": pa.array(answers.predictions.astype(np.int32)),
            "logits": pa.ListArray.from_arrays(offsets, pa.array(answers.logits.astype(np.float32).ravel())),
        }
    )
    pq.write_table(table, folder / FILE)


def read(folder: Path) -> Answers:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / FILE)
    logits = table.column("logits").combine_chunks().flatten().to_numpy()
    return Answers(
        row_id=np.asarray(table.column("row_id").to_pylist()),
        labels=table.column("label").to_numpy(),
        predictions=table.column("prediction").to_numpy(),
        logits=logits.reshape(len(table), -1),
    )
