"""Split valid rows by a hash of their id, so that no row changes sides when data grow; learn what preprocessing needs.

Row id: the declared key, else a hash of the inputs without the label, so that equal inputs share a side. Rows that
the data declare for validation, calibration or test are that split, exactly; the rest is divided among the others.
Inputs are in memory a block at a time: each row goes to a file for its range of hashes, and each file is then sorted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.batches import batches, open_parquet
from components.data import SPLITS, Spec
from components.digests import digests, repeated
from components.errors import DataError
from components.params import ImageClassification, Prepare
from components.schemas import SCHEMAS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BLOCK_BYTES = 16 << 20  # of rows sorted at once
MAX_BLOCKS = 1024  # a file each and split


def sides(found: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """On which side each id falls, by where the first 64 bits of its SHA-256 lie in [0, 1] and by nothing else."""
    return np.searchsorted(np.cumsum(shares)[:-1], positions(found), side="right").astype(np.int8)


def positions(found: np.ndarray) -> np.ndarray:
    return found[:, 0].astype(np.float64) / 2.0**64


def shares_left(prepare: Prepare, declared: Sequence[str]) -> list[float]:
    """The shares of rows that are not declared: in proportion, among the splits that have no rows of their own."""
    shares = [0.0 if name in declared else getattr(prepare.split, name) for name in SPLITS]
    return [share / sum(shares) for share in shares] if declared else shares


def leaks(content: np.ndarray, side: np.ndarray) -> dict[tuple[str, str], int]:
    """How many inputs two splits share, for the pairs that share any."""
    rows, group = repeated(content)
    held = np.zeros((group[-1] + 1 if len(group) else 0, len(SPLITS)), bool)
    held[group, side[rows]] = True
    pairs = combinations(range(len(SPLITS)), 2)
    return {(SPLITS[a], SPLITS[b]): n for a, b in pairs if (n := int((held[:, a] & held[:, b]).sum()))}


@dataclass
class Blocks:
    """Rows on disk, in one file for each split and range of hashes. Of a row: its number and its inputs as bytes."""

    folder: Path
    count: int  # ranges of equal width

    def add(self, start: int, side: np.ndarray, found: np.ndarray, inputs: dict[str, np.ndarray]) -> None:
        numbers = np.arange(start, start + len(side), dtype=np.int64)
        parts = [x.reshape(len(x), -1) for x in (numbers, *inputs.values())]
        rows = np.concatenate([np.ascontiguousarray(x).view(np.uint8) for x in parts], axis=1)
        block = side.astype(np.int64) * self.count + np.minimum(positions(found) * self.count, self.count - 1).astype(
            int
        )
        order = np.argsort(block, kind="stable")
        edges = np.flatnonzero(np.diff(block[order])) + 1
        for some in np.split(order, edges):
            with self._path(int(block[some[0]])).open("ab") as file:
                file.write(rows[some].tobytes())

    def read(self, split: str, inputs: dict[str, np.ndarray]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """(row numbers, inputs shaped and typed as these), range by range; each file is removed once read."""
        first = SPLITS.index(split) * self.count
        for path in map(self._path, range(first, first + self.count)):
            if not path.exists():
                continue
            widths = [x[:1].nbytes for x in inputs.values()]
            rows = np.fromfile(path, np.uint8).reshape(-1, 8 + sum(widths))
            path.unlink()
            ends = np.cumsum([8, *widths])
            yield (
                rows[:, :8].copy().view(np.int64).ravel(),
                {
                    name: rows[:, end - width : end].copy().view(x.dtype).reshape(-1, *x.shape[1:])
                    for (name, x), width, end in zip(inputs.items(), widths, ends[1:], strict=True)
                },
            )

    def _path(self, block: int) -> Path:
        return self.folder / f"{block}.bin"


def _hex(found: np.ndarray) -> pa.Array:
    """Digests as 32 hexadecimal digits."""
    import pyarrow as pa

    text = found.astype(">u8").tobytes().hex().encode()
    offsets = np.arange(0, len(text) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(found), pa.py_buffer(offsets), pa.py_buffer(text))


def _declared(file: pq.ParquetFile, task: ImageClassification) -> list[str]:
    """The splits that the data have rows of, beside train. Raises DataError for any other word."""
    import pyarrow.compute as pc

    if task.columns.split is None:
        return []
    found: set[str | None] = set()
    for table in batches(file, [task.columns.split]):
        found |= set(pc.unique(SCHEMAS[task.kind].splits(table, task)).to_pylist())
    if unknown := found - set(SPLITS):
        words = sorted(map(str, unknown))[:10]
        raise DataError(f"column {task.columns.split!r} has {words}, none of {SPLITS}; run validate first")
    if "train" not in found:
        raise DataError(f"column {task.columns.split!r}: no row is marked train; mark them, or declare no split")
    return [name for name in SPLITS if name in found and name != "train"]


def run(task: ImageClassification, prepare: Prepare, valid: Path, out: Path) -> dict[str, dict[str, int]]:
    """One Parquet file a split (row_id, input.<name>, label), rows in hash order, and spec.json."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    member, folder = SCHEMAS[task.kind], out / "blocks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    blocks, like, start, texts = None, {}, 0, []
    with open_parquet(valid / "data.parquet") as file:
        declared, total = _declared(file, task), file.metadata.num_rows
        shares = shares_left(prepare, declared)
        content, ids = np.empty((total, 2), np.uint64), np.empty((total, 2), np.uint64)
        labels, side = np.empty(total, np.int32), np.empty(total, np.int8)
        for table in batches(file):
            some = slice(start, start + len(table))
            inputs, labels[some] = member.read(table, task)
            if blocks is None:
                like = {name: x[:1] for name, x in inputs.items()}
                row_bytes = 8 + sum(x.nbytes for x in like.values())
                blocks = Blocks(folder, min(max(row_bytes * total // BLOCK_BYTES, 1), MAX_BLOCKS))
            content[some] = member.content(inputs)
            if (key := member.keys(table, task)) is not None:
                texts.append(key)
            ids[some] = digests((_hex(content[some]) if key is None else key).to_pylist())
            side[some] = sides(ids[some], shares)
            if (split := member.splits(table, task)) is not None:
                marked = pc.index_in(split, value_set=pa.array(SPLITS)).to_numpy(zero_copy_only=False).astype(np.int8)
                side[some] = np.where(marked > 0, marked, side[some])
            blocks.add(start, side[some], ids[some], inputs)
            start += len(table)
    if blocks is None:
        raise DataError("there are no valid rows; run validate on these data first")
    keys = pa.concat_arrays(texts) if texts else None
    _check(task, labels, side, content, ids)

    def write(split: str) -> Iterator[dict[str, np.ndarray]]:
        schema = [("row_id", pa.string())]
        schema += [(f"input.{name}", pa.list_(pa.from_numpy_dtype(x.dtype), x.size)) for name, x in like.items()]
        schema = pa.schema([*schema, ("label", pa.int32())])
        with pq.ParquetWriter(out / f"{split}.parquet", schema, compression="zstd") as writer:
            for numbers, inputs in blocks.read(split, like):
                order = np.lexsort((ids[numbers, 1], ids[numbers, 0]))
                numbers, inputs = numbers[order], {name: x[order] for name, x in inputs.items()}
                lists = [pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x[0].size) for x in inputs.values()]
                row_ids = _hex(content[numbers]) if keys is None else keys.take(pa.array(numbers))
                writer.write_table(pa.table([row_ids, *lists, pa.array(labels[numbers])], schema=schema))
                yield inputs

    learned = member.statistics(write("train"))
    for name in SPLITS[1:]:
        for _ in write(name):
            pass
    shutil.rmtree(folder)
    Spec(task=task.kind, shape=task.shape, classes=task.classes, statistics=learned).write(out)
    counts = [np.bincount(labels[side == i], minlength=len(task.classes)) for i in range(len(SPLITS))]
    return {
        "rows": {name: int(count.sum()) for name, count in zip(SPLITS, counts, strict=True)},
        "least_class_rows": {name: int(count.min()) for name, count in zip(SPLITS, counts, strict=True)},
    }


def _check(
    task: ImageClassification, labels: np.ndarray, side: np.ndarray, content: np.ndarray, ids: np.ndarray
) -> None:
    """Raises DataError for what no split may be: empty, without a class to learn, sharing rows with another."""
    rows, group = repeated(ids)
    if len(rows):
        raise DataError(f"{len(rows) - len(np.unique(group))} rows share their id with another; run validate first")
    counts = np.bincount(side, minlength=len(SPLITS))
    if empty := [name for name, count in zip(SPLITS, counts, strict=True) if not count]:
        raise DataError(
            f"prepare.split: {len(labels)} rows leave {empty} without any; raise the share or bring more rows"
        )
    learned = np.bincount(labels[side == 0], minlength=len(task.classes))
    if missing := [name for name, count in zip(task.classes, learned, strict=True) if not count]:
        raise DataError(
            f"task.classes: the training split has no row of {missing[:10]}; bring more rows or drop the class"
        )
    if shared := leaks(content, side):
        found = "; ".join(f"{a} and {b} share {n}" for (a, b), n in shared.items())
        raise DataError(f"the splits share inputs under different keys ({found}): duplicates; run validate first")
