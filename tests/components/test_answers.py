"""Answers that are not what they should be are refused by the name of their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components import answers
from components.data import Spec, read_rows
from components.errors import TemperError


@pytest.fixture
def given(prepared: Path, spec: Spec, tmp_path: Path) -> Path:
    """The folder of right answers to the test rows."""
    rows, folder = read_rows(prepared, "test", spec), tmp_path / "answers"
    folder.mkdir()
    logits = np.random.default_rng(0).normal(size=(len(rows), 10)).astype(np.float32)
    made = answers.Answers(rows.row_id, rows.labels, logits.argmax(1), logits)
    assert answers.write(made, folder, prepared / "test.parquet").keys() == {"sha256", "data_sha256"}
    return folder


def damage(fault: str, folder: Path, split: Path) -> None:
    """Change the answers in `folder` as this fault would."""
    given, file = answers.read(folder), folder / answers.FILE
    ids, labels, logits = given.row_id, given.labels.copy(), given.logits.copy()
    orders = {"missing": np.arange(3, len(ids)), "doubled": np.append(np.arange(len(ids)), 5)}
    order = {**orders, "shuffled": np.arange(len(ids))[::-1]}.get(fault, np.arange(len(ids)))
    ids, labels, logits = ids[order], labels[order], logits[order]
    if fault == "unknown":
        ids, labels, logits = np.append(ids, "row9"), np.append(labels, 0), np.append(logits, logits[:1], 0)
    elif fault == "labels":
        labels[7] = (labels[7] + 1) % 10
    elif fault == "nan":
        logits[4, 0] = np.nan
    predictions = logits.argmax(1)
    if fault == "predictions":
        predictions[2] = (predictions[2] + 1) % 10
    elif fault == "other data":
        pq.write_table(pq.read_table(split), folder / "other.parquet", compression="none")
        split = folder / "other.parquet"
    answers.write(answers.Answers(ids, labels, predictions, logits), folder, split)
    if fault == "no column":
        pq.write_table(pq.read_table(file).drop_columns(["label"]), file)
    elif fault == "no rows":
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    elif fault == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif fault == "gone":
        file.unlink()


def test_what_was_written_is_read(given: Path, prepared: Path) -> None:
    found = answers.read(given)
    answers.check(found, given, prepared / "test.parquet")
    assert found.logits.dtype == np.float32 and found.logits.shape == (120, 10)
    assert found.row_id[0] == "row480" and len(found.data_sha256) == 64


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", r"3 of 120 rows of \S+/test.parquet are missing, 'row480' first"),
        ("doubled", "1 row ids stand there twice or more, 'row485' first"),
        ("shuffled", r"120 rows do not stand in the order of \S+/test.parquet"),
        ("unknown", r"1 rows are not in \S+/test.parquet, 'row9' first"),
        ("labels", r"1 labels differ from those of \S+/test.parquet"),
        ("nan", "1 of 120 rows have NaN or infinite logits, 'row484' first"),
        ("predictions", "1 predictions are not what their logits say"),
        ("other data", r"answers other data: sha256 [0-9a-f]{12}, \S+/test.parquet has [0-9a-f]{12}"),
        ("no column", "has no column label"),
        ("no rows", "holds no row"),
        ("truncated", "cannot be read as answers: "),
        ("gone", "cannot be read as answers: "),
    ],
)
def test_a_damaged_file_is_refused_by_name(given: Path, prepared: Path, fault: str, words: str) -> None:
    damage(fault, given, prepared / "test.parquet")
    with pytest.raises(TemperError, match=f"^{given}/predictions.parquet: {words}.*; run `dvc repro`"):
        answers.check(answers.read(given), given, prepared / "test.parquet")


def test_a_file_is_whole_if_its_record_says_so(given: Path, prepared: Path) -> None:
    sha256 = answers.write(answers.read(given), given, prepared / "test.parquet")["sha256"]
    assert answers.whole(given, sha256)
    damage("shuffled", given, prepared / "test.parquet")
    assert not answers.whole(given, sha256)
    assert not answers.whole(given, None)
