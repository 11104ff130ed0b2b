"""Answers of one build, or of the champion, to the rows of a split: asked, kept row by row, and read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.data import Rows, trimmed
from components.errors import TemperError
from components.hashing import sha256_file
from components.session import Session

# Dynamic INT8 takes its scales from the whole batch, so the batch is part of the answer: one size for all.
BATCH_SIZE = 32
FILE = "predictions.parquet"
COLUMNS = ("row_id", "label", "prediction", "logits")
DATA = b"temper.data_sha256"  # in the file's metadata: of the split whose rows were asked
REMEDY = "run `dvc repro`, which has the rows answered again"


@dataclass(frozen=True)
class Answers:
    row_id: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray  # class numbers
    logits: np.ndarray  # (rows, classes), float32
    data_sha256: str = ""  # of the split's file; told by `read`

    def accuracy(self) -> float:
        return float((self.predictions == self.labels).mean())


def ask(session: Session, rows: Rows) -> Answers:
    """The last batch is filled up with its last row, which changes no scale. Text is asked as it is served: each batch
    as long as its longest row."""
    logits = []
    for start in range(0, len(rows), BATCH_SIZE):
        numbers = np.minimum(np.arange(start, start + BATCH_SIZE), len(rows) - 1)
        logits.append(session.run(trimmed({name: values[numbers] for name, values in rows.inputs.items()})))
    joined = np.concatenate(logits)[: len(rows)]
    return Answers(rows.row_id, rows.labels, joined.argmax(1), joined)


def write(answers: Answers, folder: Path, split: Path) -> dict[str, str]:
    """predictions.parquet with the columns row_id, label, prediction and logits (list<float32>).

    Returns {sha256 of the file, data_sha256 of `split`, the file whose rows were asked}, for the cell's record.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, classes = answers.logits.shape
    data_sha256 = sha256_file(split)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * classes)
    table = pa.table(
        {
            "row_id": pa.array(answers.row_id.tolist(), pa.string()),
            "label": pa.array(answers.labels.astype(np.int32)),
            "prediction": pa.array(answers.predictions.astype(np.int32)),
            "logits": pa.ListArray.from_arrays(offsets, pa.array(answers.logits.astype(np.float32).ravel())),
        },
        metadata={DATA: data_sha256.encode()},
    )
    pq.write_table(table, folder / FILE)
    return {"sha256": sha256_file(folder / FILE), "data_sha256": data_sha256}


def read(folder: Path) -> Answers:
    """Raises TemperError, which begins with the file, for one that is broken in itself; `check` asks the data."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / FILE
    try:
        table = pq.read_table(file)
        if missing := [name for name in COLUMNS if name not in table.column_names]:
            raise TemperError(f"{file}: has no column {', '.join(missing)}; {REMEDY}")
        if not len(table):
            raise TemperError(f"{file}: holds no row; {REMEDY}")
        row_id = np.asarray(table.column("row_id").to_pylist(), dtype=str)
        logits = table.column("logits").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        labels, predictions = (table.column(name).to_numpy() for name in ("label", "prediction"))
        logits = logits.reshape(len(table), -1)
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise TemperError(f"{file}: cannot be read as answers: {reason}; {REMEDY}") from error
    ids, counts = np.unique(row_id, return_counts=True)
    if (doubled := ids[counts > 1]).size:
        raise TemperError(
            f"{file}: {doubled.size} row ids stand there twice or more, {str(doubled[0])!r} first; {REMEDY}"
        )
    if (broken := ~np.isfinite(logits).all(1)).any():
        first = str(row_id[broken][0])
        raise TemperError(
            f"{file}: {broken.sum()} of {len(row_id)} rows have NaN or infinite logits, {first!r} first; {REMEDY}"
        )
    if (other := logits.argmax(1) != predictions).any():
        raise TemperError(f"{file}: {other.sum()} predictions are not what their logits say; {REMEDY}")
    known = (table.schema.metadata or {}).get(DATA, b"").decode()
    return Answers(row_id, labels, predictions, logits, known)


def check(answers: Answers, folder: Path, split: Path) -> None:
    """Raise TemperError if the answers of `folder` are not to the rows of `split`, a Parquet file, one by one."""
    import pyarrow.parquet as pq

    file, table = folder / FILE, pq.read_table(split, columns=["row_id", "label"])
    wanted, labels = np.asarray(table.column("row_id").to_pylist(), dtype=str), table.column("label").to_numpy()
    if (missing := np.setdiff1d(wanted, answers.row_id)).size:
        raise TemperError(
            f"{file}: {missing.size} of {len(wanted)} rows of {split} are missing, {str(missing[0])!r} first; {REMEDY}"
        )
    if (unknown := np.setdiff1d(answers.row_id, wanted)).size:
        raise TemperError(f"{file}: {unknown.size} rows are not in {split}, {str(unknown[0])!r} first; {REMEDY}")
    if (moved := answers.row_id != wanted).any():
        raise TemperError(f"{file}: {moved.sum()} rows do not stand in the order of {split}; {REMEDY}")
    if (wrong := answers.labels != labels).any():
        raise TemperError(f"{file}: {wrong.sum()} labels differ from those of {split}; {REMEDY}")
    if answers.data_sha256 != (found := sha256_file(split)):
        raise TemperError(
            f"{file}: answers other data: sha256 {answers.data_sha256[:12] or 'unknown'}, {split} has {found[:12]}; "
            f"{REMEDY}"
        )


def whole(folder: Path, sha256: str | None) -> bool:
    """Whether the file is the one that its record speaks of."""
    return sha256 is not None and (folder / FILE).exists() and sha256_file(folder / FILE) == sha256
