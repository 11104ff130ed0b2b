"""Prepared data as the stages after `prepare` see it: one Parquet file a split and spec.json beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

SPLITS = ("train", "validation", "calibration", "test")


class Vocabulary(BaseModel):
    """What a model must know of the tokenizer, which ships beside it; ids of its special tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    padding: int
    unknown: int
    start: int
    separator: int
    mask: int
    sentence_ends: list[int] = Field(default_factory=list)  # of '.', '!' and '?', those that it has
    sha256: str  # of tokenizer.json


class Placing(BaseModel):
    """By what rows fell into splits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str | None  # the column that rows are told apart by; None: by what they hold
    declared: list[str]  # splits that the data name themselves, beside train
    shares: list[float]  # by split, of the rows that the data name none for: each takes its part of [0, 1] in turn


class Spec(BaseModel):
    """What `prepare` learned: all that a model must know of its data, shipped with every model and build."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    inputs: dict[str, Literal["float32", "int64"]]  # by name, in the order in which a graph takes them
    shape: list[int]  # of one row of each input, without the batch; of text the greatest length: rows may be shorter
    classes: list[str]
    statistics: dict[str, list[float]]  # of the training split, for preprocessing
    vocabulary: Vocabulary | None  # of text
    placing: Placing | None = None  # None: made before it was written down

    @classmethod
    def read(cls, directory: Path) -> Spec:
        return cls.model_validate_json((directory / "spec.json").read_text("utf-8"))

    def write(self, directory: Path) -> None:
        (directory / "spec.json").write_text(self.model_dump_json(indent=2) + "\n", "utf-8")


@dataclass(frozen=True)
class Learned:
    """What a schema learned of the training split before any row is encoded."""

    encode: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]]  # raw rows to inputs of one width each
    vocabulary: Vocabulary | None


TOKENIZER = "tokenizer.json"  # beside spec.json, and in every build of a text task


def trimmed(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch of text, arrays or tensors (rows, length), cut to its longest row; other inputs as they are.

    Padding is on the right, as the tokenizer puts it.
    """
    if "attention_mask" not in inputs:
        return inputs
    longest = max(int(inputs["attention_mask"].sum(1).max()), 1)
    return {name: x[:, :longest] for name, x in inputs.items()}


@dataclass(frozen=True)
class Rows:
    """Rows of one split. `inputs` are raw, one array an ONNX input, first axis the row; `labels` are class numbers."""

    row_id: np.ndarray
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # as they were before a tokenizer, if asked for

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, rows: int) -> Rows:
        """The first rows; splits are in hash order, so they are a random sample."""
        inputs = {name: x[:rows] for name, x in self.inputs.items()}
        return Rows(self.row_id[:rows], inputs, self.labels[:rows], {k: x[:rows] for k, x in self.texts.items()})


@dataclass(frozen=True)
class Case:
    """One way to put raw rows to a program: a point of the grid over which two programs must answer alike."""

    where: str  # in words: "batch 3", "batch 3, length 16, left padding"
    batch_size: int
    inputs: Mapping[str, np.ndarray]  # first axis the row; cut into whole batches
    padded: bool = False  # whether a mask hides a part of some row


@dataclass(frozen=True)
class Suspect:
    """A fault by what it does: a program with it answers as the right one answers `change(inputs, values)`."""

    words: Callable[[Sequence[float]], str]  # what is wrong, told with the values that explain the answers
    change: Callable[[Mapping[str, np.ndarray], Sequence[float]], Mapping[str, np.ndarray]]
    values: Sequence[Sequence[float]] = ((),)  # tried one after the other
    fit: bool = False  # whether to search on from the best of them


def read_rows(prepared: Path, split: str, spec: Spec, texts: bool = False) -> Rows:
    """One split: columns row_id, label and `input.<name>`, each a list column, as the spec's dtype and shape.

    With `texts` also columns `text.<name>`, if there are any.
    """
    import pyarrow.parquet as pq

    path = prepared / f"{split}.parquet"
    names = pq.read_schema(path).names
    table = pq.read_table(path, columns=[name for name in names if texts or not name.startswith("text.")])
    inputs = {
        # A copy: Arrow's memory is read-only, which torch does not take.
        name: np.array(
            table.column(f"input.{name}").combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype=dtype
        ).reshape(len(table), *spec.shape)
        for name, dtype in spec.inputs.items()
    }
    return Rows(
        row_id=np.asarray(table.column("row_id").to_pylist()),
        inputs=inputs,
        labels=np.array(table.column("label").to_numpy(), dtype=np.int64),
        texts={
            name.removeprefix("text."): table.column(name).to_pylist()
            for name in table.column_names
            if name.startswith("text.")
        },
    )
