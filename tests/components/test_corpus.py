"""A corpus beside the labelled texts: what comes in, what stays out, and who learns from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import ingest, make, observe, params, prepare
from components.data import Spec, read_rows
from components.errors import DataError
from components.passes import pretrain

TASK = params.TextClassification(
    kind="text_classification",
    columns=params.TextColumns(text="text", label="label", key=None),
    classes=["sport", "money"],
    max_tokens=12,
    max_characters=300,
    tokenizer=params.WordPiece(kind="wordpiece", vocabulary=128, lowercase=True),
)
SHARES = params.Split(train=0.4, validation=0.2, calibration=0.2, test=0.2)


def prepared(at: Path, texts: list[Any] | pa.Array, column: str = "words") -> tuple[Path, Mapping[str, Any]]:
    """Forty labelled texts and a corpus through the stage itself."""
    (at / "valid").mkdir(parents=True)
    rows = [f"a goal in match {i} of the season" if i % 2 else f"the bank raised price {i} again" for i in range(40)]
    labels = ["sport" if i % 2 else "money" for i in range(40)]
    pq.write_table(pa.table({"text": rows, "label": labels}), at / "valid/data.parquet")
    pq.write_table(pa.table({column: texts}), at / "corpus-source.parquet")
    beside, own = (
        {"kind": "parquet", "path": str(at / path)} for path in ("corpus-source.parquet", "valid/data.parquet")
    )
    asked = params.Corpus.model_validate({"source": beside, "column": "words"})
    for name, source in (("source", own), ("corpus", beside)):
        (at / f"{name}.json").write_text(json.dumps(observe.unlabelled({"source": source}, None)[0]), "utf-8")
        (at / "checkpoint.json").write_text("null", "utf-8")
    (at / "raw").mkdir(), (at / "out").mkdir()
    shares, source = params.Prepare(split=SHARES, corpus=asked), params.Parquet.model_validate(own)
    ingest.run(source, shares, at / "source.json", at / "corpus.json", at / "raw")
    (at / "corpus-source.parquet").unlink()  # what was brought in is all that is needed
    return at / "out", prepare.run(TASK, shares, at / "valid", at / "checkpoint.json", at / "raw", at / "out")


def test_texts_come_in_once_and_long_ones_in_stretches(tmp_path: Path) -> None:
    long = " ".join(["season of the bank"] * 10)
    out, told = prepared(tmp_path, ["the match", "the  match ", long, None, "", "x\0y", "z" * 301])
    assert told["corpus"]["texts"] == 7
    assert told["corpus"]["not_usable"] == 4
    assert told["corpus"]["repeated_or_held_out"] == 1
    rows = read_rows(out, "corpus", Spec.read(out))
    assert len(rows) == told["corpus"]["rows"] == 1 + 4  # 40 words, ten a row beside the two special tokens
    assert set(rows.labels) == {-1}
    spec = Spec.read(out)
    assert spec.vocabulary is not None
    for ids, mask in zip(rows.inputs["input_ids"], rows.inputs["attention_mask"], strict=True):
        real = ids[mask == 1]
        assert (real[0], real[-1]) == (spec.vocabulary.start, spec.vocabulary.separator)
        assert set(ids[mask == 0]) <= {spec.vocabulary.padding}


def test_no_text_of_a_held_out_row_comes_in(tmp_path: Path) -> None:
    first, _ = prepared(tmp_path / "first", ["the match"])
    spec = Spec.read(first)
    held = [*read_rows(first, "test", spec, texts=True).texts["text"]]
    held += read_rows(first, "validation", spec, texts=True).texts["text"]
    own = read_rows(first, "train", spec, texts=True).texts["text"][0]
    out, told = prepared(tmp_path / "second", [*held, f"  {held[0]}", own])
    assert told["corpus"]["repeated_or_held_out"] == len(held) + 1
    assert len(read_rows(out, "corpus", spec)) == 1


@pytest.mark.parametrize(
    ("texts", "column", "told"),
    [
        (["a"], "other", r"has no column 'words'; it has other"),
        ([None, ""], "words", r"none of its texts can be used \(not usable: 2, texts: 2\)"),
    ],
)
def test_a_corpus_of_no_use_is_refused(tmp_path: Path, texts: list[Any], column: str, told: str) -> None:
    with pytest.raises(DataError, match=rf"^prepare\.corpus: .*{told}"):
        prepared(tmp_path, texts if texts != [None, ""] else pa.array(texts, pa.string()), column)


def test_a_corpus_that_is_not_there_is_named_by_its_place() -> None:
    with pytest.raises(DataError, match=r"^prepare\.corpus: source\.path /nowhere\.parquet: cannot be read"):
        observe.unlabelled({"source": {"kind": "parquet", "path": "/nowhere.parquet"}}, None)


def test_a_corpus_that_changed_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ingest._groups

    def change(reader: Any) -> Any:
        yield from groups(reader)
        if "words" in reader.schema.names:
            pq.write_table(pa.table({"words": ["something else"]}), tmp_path / "corpus-source.parquet")

    monkeypatch.setattr(ingest, "_groups", change)
    with pytest.raises(DataError, match=r"^prepare\.corpus: the parquet data changed while they were read"):
        prepared(tmp_path, ["the match"])


def test_pretrain_learns_from_both_and_is_measured_on_the_labelled(tmp_path: Path) -> None:
    out, told = prepared(tmp_path, ["the match", "a price"])
    rows = {name: read_rows(out, name, Spec.read(out)) for name in ("train", "validation", "corpus")}
    found = pretrain._with_corpus(rows.__getitem__)
    assert len(found("train")) == len(rows["train"]) + told["corpus"]["rows"]
    assert found("validation") is rows["validation"]
    assert (found("train").inputs["input_ids"][-1] == rows["corpus"].inputs["input_ids"][-1]).all()
    alone = pretrain._with_corpus((rows | {"corpus": rows["corpus"].head(0)}).__getitem__)
    assert alone("train") is rows["train"]


def test_without_a_corpus_a_pass_reads_an_empty_one(prepared_texts: Path, text_spec: Spec) -> None:
    train = read_rows(prepared_texts, "train", text_spec)
    empty = make.rows_of(prepared_texts, "corpus", text_spec)
    assert len(empty) == 0
    assert empty.inputs.keys() == train.inputs.keys()
    with pytest.raises(ValueError, match="not 'test'"):
        make.rows_of(prepared_texts, "test", text_spec)
    assert np.shape(empty.inputs["input_ids"])[1] == text_spec.shape[0]
