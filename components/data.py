"""Prepared data as the stages after `prepare` see it: one Parquet file a split and spec.json beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

SPLITS = ("train", "validation", "calibration", "test")


class Spec(BaseModel):
    """What `prepare` learned: all that a model must know of its data, shipped with every model and build."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    shape: list[int]  # of one raw input, without the batch
    classes: list[str]
    statistics: dict[str, list[float]]  # of the training split, for preprocessing

    @classmethod
    def read(cls, directory: Path) -> Spec:
        return cls.model_validate_json((directory / "spec.json").read_text("utf-8"))

    def write(self, directory: Path) -> None:
        (directory / "spec.json").write_text(self.model_dump_json(indent=2) + "\n", "utf-8")


@dataclass(frozen=True)
class Rows:
    """Rows of one split. `inputs` are raw, one array an ONNX input, first axis the row; `labels` are class numbers."""

    row_id: np.ndarray
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, rows: int) -> Rows:
        """The first rows; splits are in hash order, so they are a random sample."""
        return Rows(self.row_id[:rows], {name: x[:rows] for name, x in self.inputs.items()}, self.labels[:rows])


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


def read_rows(prepared: Path, split: str, spec: Spec) -> Rows:
    """One split: columns row_id, label and `input.<name>`, each a list column reshaped to spec.shape."""
    import pyarrow.parquet as pq

    table = pq.read_table(prepared / f"{split}.parquet")
    inputs = {
        # A copy: Arrow's memory is read-only, which torch does not take.
        name.removeprefix("input."): np.array(
            table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype=np.float32
        ).reshape(len(table), *spec.shape)
        for name in table.column_names
        if name.startswith("input.")
    }
    return Rows(
        row_id=np.asarray(table.column("row_id").to_pylist()),
        inputs=inputs,
        labels=np.array(table.column("label").to_numpy(), dtype=np.int64),
    )
