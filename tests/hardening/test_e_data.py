"""Bad data end the run before any training, each fault by a rule that is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import ingest, prepare, validate
from components.errors import DataError
from components.params import (
    Csv,
    Expectation,
    ImageClassification,
    ImageColumns,
    Parquet,
    Prepare,
    Split,
    TextClassification,
    TextColumns,
    Validate,
    WordPiece,
)
from components.sources import SOURCES

TEXTS = TextClassification(
    kind="text_classification",
    columns=TextColumns(text="text", label="label", key="id"),
    classes=["a", "b"],
    max_tokens=16,
    max_characters=10_000,
    tokenizer=WordPiece(kind="wordpiece", vocabulary=128, lowercase=True),
)
STRICT = Validate(min_rows=5, max_quarantined_share=0.0, max_duplicate_share=0.0, expectations=[])


def taken_in(folder: Path, source: Csv | Parquet, rules: Validate = STRICT) -> str:
    """What the data stages say that refuse the source."""
    (folder / "source.json").write_text(json.dumps(SOURCES[source.kind].observe(source, None)[0]), "utf-8")
    (folder / "valid").mkdir()
    with pytest.raises(DataError) as caught:
        ingest.bring(source, folder / "source.json", folder / "data.parquet")
        validate.run(TEXTS, rules, folder, folder / "valid")
    assert not (folder / "valid/data.parquet").exists()
    return str(caught.value)


@pytest.mark.hardening(
    "E25", "CSV: unknown label, no label, 1e6 characters, blanks only, doubled id, copies: every rule is named"
)
def test_every_fault_of_a_csv_is_named_at_once(tmp_path: Path) -> None:
    rows = [f"{i},text number {i},{'ab'[i % 2]}" for i in range(20)]
    rows[3], rows[4], rows[5], rows[6] = "3,x,c", "4,y,", f"5,{'z' * 1_000_000},a", '6,"  ",b'
    rows[7], rows[8], rows[9] = "2,another,a", "8,text  number 11,b", "9,text number 12,b"
    (tmp_path / "data.csv").write_text("id,text,label\r\n" + "\r\n".join(rows) + "\r\n", "utf-8-sig")
    said = taken_in(tmp_path, Csv(kind="csv", path=str(tmp_path / "data.csv"), delimiter=","))
    for part in (
        "validate.max_quarantined_share",
        "not one of task.classes",
        "the label is missing",
        "1,000,000 characters (task.max_characters 10,000)",
        "'empty'",
        "another row has the same key and differs",
        "validate.max_duplicate_share",
        "an earlier row has the same inputs and the same label",
        "another row has the same inputs and a different label",
    ):
        assert part in said, (part, said)
    aside = pq.read_table(tmp_path / "valid/quarantine.parquet")
    assert {3, 4, 5, 6, 7} <= set(aside.column("row").to_pylist())


@pytest.mark.hardening("E25", "Parquet: bytes that are no UTF-8, NUL, labels of mixed kinds")
def test_every_fault_of_texts_that_are_bytes_is_named(tmp_path: Path) -> None:
    texts = [f"text {i}".encode() for i in range(20)]
    texts[3], texts[4] = b"caf\xe9 here", b"a\0b"
    table = pa.table({"id": list(range(20)), "text": texts, "label": ["a"] * 18 + ["1", "2.5"]})
    pq.write_table(table, tmp_path / "in.parquet")
    said = taken_in(tmp_path, Parquet(kind="parquet", path=str(tmp_path / "in.parquet")))
    for part in ("not UTF-8 from byte 3 on", "holds NUL, at character 1", "'1'", "'2.5'"):
        assert part in said, (part, said)


PIXELS = ImageClassification(
    kind="image_classification",
    columns=ImageColumns(image="p*", label="label", key=None),
    shape=[1, 2],
    range=[0.0, 255.0],
    classes=["a", "b"],
)


def pixels(folder: Path, first: list[float], labels: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"p0": first, "p1": [1.0] * len(first), "label": labels}), folder / "data.parquet")
    return folder


def shift(threshold: float) -> Validate:
    """As often as in the training data of today's champion: half and half."""
    wanted = {"values": ["a", "b"], "weights": [0.5, 0.5]}
    rule = Expectation(
        expect="expect_column_kl_divergence_to_be_less_than",
        severity="stop",
        arguments={
            "column": "label",
            "partition_object": wanted,
            "threshold": threshold,
            "notes": "classes come in other shares than before",
        },
    )
    return Validate(min_rows=5, max_quarantined_share=1.0, max_duplicate_share=1.0, expectations=[rule])


@pytest.mark.hardening(
    "E27", "shares of classes beyond and within a threshold of the params; the figure is in the report"
)
def test_a_shift_of_labels_stops_the_run_as_the_params_say(tmp_path: Path) -> None:
    raw = pixels(tmp_path / "raw", [float(i) for i in range(200)], ["a"] * 180 + ["b"] * 20)
    for name in ("out", "other"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"classes come in other shares than before; found 0\.3"):
        validate.run(PIXELS, shift(0.1), raw, tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    (told,) = [rule for rule in report["rules"] if "kl_divergence" in rule["rule"]]
    assert told["observed"].startswith("found 0.3") and not told["success"]
    assert validate.run(PIXELS, shift(0.5), raw, tmp_path / "other")["kept"] == 200


@pytest.mark.hardening("E26", "a test row that is a training row under another name")
def test_a_row_on_both_sides_is_refused(tmp_path: Path) -> None:
    columns = PIXELS.columns.model_copy(update={"split": "part"})
    raw = pixels(tmp_path / "valid", [float(i) for i in range(100)], ["a", "b"] * 50)
    table = pq.read_table(raw / "data.parquet").append_column("part", pa.array(["train"] * 60 + ["test"] * 40))
    first = np.arange(100.0)
    first[70] = first[10]
    pq.write_table(table.set_column(0, "p0", pa.array(first)), raw / "data.parquet")
    (tmp_path / "checkpoint.json").write_text("null", "utf-8")
    (tmp_path / "out").mkdir()
    split = Prepare(split=Split(train=0.6, validation=0.1, calibration=0.1, test=0.2))
    with pytest.raises(DataError, match="share"):
        prepare.run(
            PIXELS.model_copy(update={"columns": columns}),
            split,
            raw,
            tmp_path / "checkpoint.json",
            tmp_path,
            tmp_path / "out",
        )


@pytest.mark.hardening("E26", "test texts that are training texts in other case, blanks and punctuation")
def test_texts_that_hardly_differ_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = TEXTS.columns.model_copy(update={"key": None, "split": "part"})
    task = TEXTS.model_copy(update={"columns": columns})
    texts = [f"this is the text of number {i}" for i in range(100)]
    texts[70], texts[75], texts[80] = "This is the text, of number 3!", "THIS IS  THE TEXT OF NUMBER 4", "!!!"
    texts[5] = "???"
    parts = ["train"] * 60 + ["test"] * 40
    (tmp_path / "valid").mkdir(), (tmp_path / "out").mkdir()
    table = pa.table({"text": texts, "label": ["a", "b"] * 50, "part": parts})
    pq.write_table(table, tmp_path / "valid/data.parquet")
    (tmp_path / "checkpoint.json").write_text("null", "utf-8")
    split = Prepare(split=Split(train=0.6, validation=0.1, calibration=0.1, test=0.2))
    with caplog.at_level("WARNING", "temper"):
        metrics = prepare.run(task, split, tmp_path / "valid", tmp_path / "checkpoint.json", tmp_path, tmp_path / "out")
    assert sum(n for pair, n in metrics["near_duplicates"].items() if pair.endswith("_test")) == 2
    assert "differ in case, blanks and punctuation alone" in caplog.text
