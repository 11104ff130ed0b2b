from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data import Rows
from components.errors import DataError
from components.params import TextClassification, TextColumns, WordPiece
from components.schemas import text_classification as schema


def params(**more: Any) -> TextClassification:
    columns = more.pop("columns", {})
    return TextClassification(
        kind="text_classification",
        columns=TextColumns(text="text", label="label", key=None, **columns),
        classes=["no", "yes"],
        max_tokens=8,
        max_characters=20,
        tokenizer=WordPiece(kind="wordpiece", vocabulary=100, lowercase=True),
        **more,
    )


def bytes_as_text(values: list[bytes]) -> pa.Array:
    """A string array of any bytes: Arrow does not look at what a file holds."""
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)))


@pytest.mark.hardening("E25", "texts with NUL, no UTF-8, blanks only")
def test_what_cannot_be_used_says_why() -> None:
    texts = bytes_as_text([b"good", b"", b" \n\t ", b"a\0b", b"a\xffb", b"x" * 21, "é".encode() * 20])
    table = pa.table({"text": texts, "label": ["yes"] * 7})
    faults = schema.features(table, params()).column("text_fault").to_pylist()
    assert faults == [
        None,
        "empty",
        "empty",
        "holds NUL, at character 1",
        "not UTF-8 from byte 1 on",
        "21 characters (task.max_characters 20)",
        None,
    ]
    hashes = schema.features(table, params()).column("content").to_pylist()
    assert [value is None for value in hashes] == [fault is not None for fault in faults]
    with pytest.raises(DataError, match="5 of 7 rows"):
        schema.read(table, params())


@pytest.mark.hardening("E25", "a text of 1e6 characters")
def test_a_megabyte_and_a_missing_text_are_set_aside() -> None:
    table = pa.table({"text": ["x" * 1_000_000, None], "label": ["yes", "no"]})
    assert schema.features(table, params()).column("text_fault").to_pylist() == [
        "1,000,000 characters (task.max_characters 20)",
        "missing",
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_of_any_type_are_read_alike(kind: pa.DataType) -> None:
    table = pa.table({"text": pa.array(["a b", "c"]).cast(kind), "label": ["yes", "no"]})
    raw, labels = schema.read(table, params())
    assert raw["text"].to_pylist() == ["a b", "c"] and labels.tolist() == [1, 0]
    assert schema.columns(table, params())["text_kind"].tolist() == ["text", None]


def test_labels_and_splits_have_words_of_their_own_in_the_data() -> None:
    asked = params(columns={"split": "part"}, labels=["0", "1"], splits={"train": "train", "dev": "validation"})
    table = pa.table({"text": ["a"] * 4, "label": [0, 1, 2, 0], "part": ["train", "dev", "train", "validation"]})
    features = schema.features(table, asked)
    assert features.column("label").to_pylist() == ["no", "yes", "2", "no"]
    assert features.column("split").to_pylist()[:3] == ["train", "validation", "train"]
    assert features.column("split").to_pylist()[3] not in ("train", "validation"), "it has no meaning in these data"


def test_a_class_of_ours_is_no_label_of_theirs() -> None:
    table = pa.table({"text": ["a", "b"], "label": ["yes", "1"]})
    features = schema.features(table, params(labels=["0", "1"]))
    assert features.column("label").to_pylist()[0] != "yes" and features.column("label").to_pylist()[1] == "yes"


def test_columns_that_mean_nothing_may_be_named() -> None:
    table = pa.table({"text": ["a"], "label": ["yes"], "by": ["me"]})
    assert schema.columns(table, params())["extra"].tolist() == [None, None, "by"]
    assert schema.columns(table, params(columns={"ignored": ["by", "absent"]}))["extra"].tolist() == [None, None]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1))
def test_equal_texts_have_equal_hashes_and_others_differ(texts: list[str]) -> None:
    hashes = [tuple(row) for row in schema.content({"text": pa.array(texts, pa.string())}).tolist()]
    words = [" ".join(text.split()) for text in texts]
    assert len(set(hashes)) == len(set(words))
    assert all((a == b) == (words[i] == words[j]) for i, a in enumerate(hashes) for j, b in enumerate(hashes))


def test_a_pair_is_both_texts() -> None:
    asked = params(columns={"pair": "other"})
    table = pa.table({"text": ["a", "a", "ab"], "other": ["bc", "c", "c"], "label": ["no"] * 3})
    raw, _ = schema.read(table, asked)
    assert len({tuple(row) for row in schema.content(raw).tolist()}) == 3
    rows = Rows(np.array(["0"]), {}, np.zeros(1, int), {"text": ["a"], "pair": ["bc"]})
    assert schema.shown(rows, np.array([0])) == ["a\nbc"]
