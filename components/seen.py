"""Raw rows as the rules of validate see them: the task's features on disk, and who repeats whom."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.batches import batches, open_parquet
from components.data import SPLITS
from components.digests import digests, repeated
from components.schemas import SCHEMAS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.params import Task

HELD_OUT = {name: i for i, name in enumerate(SPLITS)}  # the greater, the less may be taken from it


@dataclass
class Seen:
    """The features of all rows: those in `path`, a row group a batch of the data, and `repeats`, in memory."""

    path: Path
    rows: int
    names: list[str]
    repeats: dict[str, np.ndarray]
    nulls: dict[str, np.ndarray]  # (nulls and NaNs, values) of each raw column

    @property
    def columns(self) -> list[str]:
        return [*self.names, *self.repeats]

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns, whole."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        stored = [name for name in columns if name not in self.repeats]
        found = pq.read_table(self.path, columns=stored, use_threads=False)
        return pa.table({name: self.repeats[name] if name in self.repeats else found.column(name) for name in columns})

    def batch(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of one batch of the data."""
        import pyarrow as pa

        with open_parquet(self.path) as file:
            stored = file.read_row_group(number, [name for name in columns if name not in self.repeats])
            sizes = [file.metadata.row_group(i).num_rows for i in range(number + 1)]
        rows = slice(sum(sizes[:-1]), sum(sizes))
        return pa.table(
            {name: self.repeats[name][rows] if name in self.repeats else stored.column(name) for name in columns}
        )


def look(file: pq.ParquetFile, task: Task, path: Path) -> Seen:
    """Writes the features of all rows to `path`; only a batch of the data is in memory at once."""
    import pyarrow.parquet as pq

    member = SCHEMAS[task.kind]
    empty = file.schema_arrow.empty_table()
    schema = member.features(empty, task).drop_columns(_content(member.features(empty, task))).schema
    nulls = {name: np.zeros(2, np.int64) for name in empty.column_names}
    known, start = Known(file.metadata.num_rows), 0
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for table in batches(file):
            for name in empty.column_names:
                nulls[name] += _null_count(table.column(name))
            features = member.features(table, task)
            known.add(start, features)
            writer.write_table(features.drop_columns(_content(features)).cast(schema), max(len(table), 1))
            start += len(table)
    return Seen(path, start, schema.names, known.repeats(), nulls)


def _content(features: pa.Table) -> list[str]:
    return [name for name in features.column_names if name == "content"]


def _null_count(column: pa.ChunkedArray) -> tuple[int, int]:
    """(nulls and NaNs, values), those inside lists included."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.combine_chunks()
    if pa.types.is_nested(array.type) and hasattr(array.type, "value_type") and not pa.types.is_map(array.type):
        missing = array.null_count
        nulls, values = _null_count(pa.chunked_array([pc.list_flatten(array)]))
        return nulls + missing, values + missing
    return int(pc.sum(pc.is_null(array, nan_is_null=True)).as_py() or 0), len(array)


class Known:
    """What tells rows apart, a few bytes a row: digests of inputs, labels and keys, and the declared split."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.content = np.zeros((rows, 2), np.uint64)
        self.label = np.zeros(rows, np.uint64)
        self.split: np.ndarray | None = None
        self.key: np.ndarray | None = None
        self.complete = np.zeros(rows, bool)  # has readable inputs and a label
        self.keyed = np.zeros(rows, bool)
        self.compared = False

    def add(self, start: int, features: pa.Table) -> None:
        names = features.column_names
        if not {"content", "label"} <= set(names) or not len(features):
            return
        self.compared = True
        some = slice(start, start + len(features))
        content = features.column("content").combine_chunks()
        raw = b"".join(content.fill_null(bytes(16)).to_pylist())
        self.content[some] = np.frombuffer(raw, ">u8").reshape(-1, 2)
        self.label[some] = _codes(features.column("label"), _digest)
        valid = [_valid(features.column(name)) for name in ("content", "label")]
        self.complete[some] = valid[0] & valid[1]
        if "split" in names:
            if self.split is None:
                self.split = np.zeros(self.rows, np.int8)
            self.split[some] = _codes(features.column("split"), lambda text: HELD_OUT.get(text or "", 0))
        if "key" in names:
            if self.key is None:
                self.key = np.zeros((self.rows, 2), np.uint64)
            self.key[some] = digests(features.column("key").fill_null("").to_pylist())
            self.keyed[some] = _valid(features.column("key"))

    def repeats(self) -> dict[str, np.ndarray]:
        """earlier_copies, other_labels, held_out_copies (with a declared split), key_clashes (with a key) of each row.

        Of rows with the same inputs in several splits, those of the most held out one stand; the others are its
        copies, and are not compared further.
        """
        if not self.compared:
            return {}
        rows, group = _among(self.complete, self.content)
        copies, others, held = (np.zeros(self.rows, np.int32) for _ in range(3))
        if self.split is not None and len(rows):
            split = self.split[rows]
            greatest = np.zeros(group[-1] + 1, np.int8)
            np.maximum.at(greatest, group, split)
            standing = split == greatest[group]
            counts = np.bincount(group[standing], minlength=len(greatest))
            held[rows[~standing]] = counts[group[~standing]]
            rows, group = rows[standing], np.unique(group[standing], return_inverse=True)[1]
        if len(rows):
            pair, distinct = _pairs(group, self.label[rows])
            others[rows] = distinct[group] - 1
            copies[rows] = _before(pair)
        found = {"earlier_copies": copies, "other_labels": others}
        if self.split is not None:
            found["held_out_copies"] = held
        if self.key is not None:
            clashes = np.zeros(self.rows, np.int32)
            rows, group = _among(self.keyed, self.key)
            if len(rows):
                bits = [self.content[rows, 0], self.content[rows, 1], self.label[rows], self.complete[rows]]
                one = np.unique(np.stack([part.astype(np.uint64) for part in bits], 1), axis=0, return_inverse=True)[1]
                clashes[rows] = _pairs(group, one)[1][group] - 1
            found["key_clashes"] = clashes
        return found


def _valid(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.is_valid(column))


def _digest(text: str | None) -> int:
    return int.from_bytes(hashlib.sha256((text or "").encode()).digest()[:8], "big")


def _codes(column: pa.ChunkedArray, code: Callable[[str | None], int]) -> np.ndarray:
    """A number for each text, worked out once for each distinct one."""
    coded = column.combine_chunks().dictionary_encode("encode")
    codes = np.array([code(text) for text in coded.dictionary.to_pylist()], np.uint64)
    return np.asarray(codes[np.asarray(coded.indices)])


def _among(which: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if which.all():
        return repeated(found)
    numbers = np.flatnonzero(which)
    rows, group = repeated(found[numbers])
    return numbers[rows], group


def _pairs(group: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of each row's pair of group and code, how many different codes each group has)."""
    order = np.lexsort((code, group))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(group[order]) != 0) | (code[order][1:] != code[order][:-1])
    pair = np.empty(len(order), np.int64)
    pair[order] = np.cumsum(new) - 1
    return pair, np.bincount(group[order][new])


def _before(pair: np.ndarray) -> np.ndarray:
    """How many earlier rows are of the same pair."""
    order = np.argsort(pair, kind="stable")
    first = np.concatenate([[True], np.diff(pair[order]) != 0])
    starts = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    before = np.empty(len(order), np.int64)
    before[order] = np.arange(len(order)) - starts
    return before
