"""Split valid rows by a hash of their id, so that no row changes sides when data grow; learn what preprocessing needs.

Row id: the declared key, else a hash of the inputs without the label, so that equal inputs share a side. Rows that
the data declare for validation, calibration or test are that split, exactly; the rest is divided among the others.
Inputs are in memory a block at a time: each row goes to a file for its range of hashes, and each file is then sorted.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components import corpus as unlabelled
from components.batches import batches, open_parquet
from components.blocks import Blocks, positions
from components.checkpoint import fetch
from components.data import SPLITS, Placing, Spec
from components.digests import digests, repeated
from components.errors import DataError
from components.params import OfCheckpoint, Prepare, Task, TextClassification
from components.schemas import SCHEMAS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

log = logging.getLogger("temper")

BLOCK_BYTES = 16 << 20  # of rows sorted at once
MAX_BLOCKS = 1024  # a file each and split


def sides(found: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """On which side each id falls, by where the first 64 bits of its SHA-256 lie in [0, 1] and by nothing else."""
    return np.searchsorted(np.cumsum(shares)[:-1], positions(found), side="right").astype(np.int8)


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


def _hex(found: np.ndarray) -> pa.Array:
    """Digests as 32 hexadecimal digits."""
    import pyarrow as pa

    text = found.astype(">u8").tobytes().hex().encode()
    offsets = np.arange(0, len(text) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(found), pa.py_buffer(offsets), pa.py_buffer(text))


def _declared(file: pq.ParquetFile, task: Task) -> list[str]:
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


@dataclass(frozen=True)
class Placed:
    """Some rows, read, and where they go."""

    raw: Mapping[str, Any]
    labels: np.ndarray
    content: np.ndarray  # hashes of what they hold
    near: np.ndarray | None  # the same for rows that hardly differ
    keys: pa.Array | None
    ids: np.ndarray
    side: np.ndarray  # numbers of splits


def _place(table: pa.Table, task: Task, shares: Sequence[float]) -> Placed:
    import pyarrow as pa
    import pyarrow.compute as pc

    member = SCHEMAS[task.kind]
    raw, labels = member.read(table, task)
    content, keys = member.content(raw), member.keys(table, task)
    ids = digests((_hex(content) if keys is None else keys).to_pylist())
    side = sides(ids, shares)
    if (split := member.splits(table, task)) is not None:
        marked = pc.index_in(split, value_set=pa.array(SPLITS)).to_numpy(zero_copy_only=False).astype(np.int8)
        side = np.where(marked > 0, marked, side)
    return Placed(raw, labels, content, member.near(raw), keys, ids, side)


def _training(valid: Path, task: Task, shares: Sequence[float]) -> Iterator[Mapping[str, Any]]:
    """What the rows of the training split hold; reads them only if it is asked for."""
    import pyarrow as pa

    with open_parquet(valid / "data.parquet") as file:
        for table in batches(file):
            rows = np.flatnonzero(_place(table, task, shares).side == SPLITS.index("train"))
            if len(rows):
                yield SCHEMAS[task.kind].read(table.take(pa.array(rows)), task)[0]


def _tokenizer(task: Task, checkpoint: Path) -> Path | None:
    """The folder of the observed checkpoint if the tokenizer comes from there."""
    if not (isinstance(task, TextClassification) and isinstance(task.tokenizer, OfCheckpoint)):
        return None
    identity = json.loads(checkpoint.read_text("utf-8"))
    return fetch(identity) if identity else None


def run(task: Task, prepare: Prepare, valid: Path, checkpoint: Path, raw: Path, out: Path) -> dict[str, dict[str, int]]:
    """One Parquet file a split (row_id, input.<name>, text.<name>, label), rows in hash order, and spec.json.

    Beside them corpus.parquet if params name a corpus, whose texts are in the folder `raw`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    member, folder = SCHEMAS[task.kind], out / "blocks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    blocks, start, keys, near = None, 0, [], []
    like: dict[str, np.ndarray] = {}
    with open_parquet(valid / "data.parquet") as file:
        declared, total = _declared(file, task), file.metadata.num_rows
        shares = shares_left(prepare, declared)
        learned = member.learn(lambda: _training(valid, task, shares), task, _tokenizer(task, checkpoint), out)
        content, ids = np.empty((total, 2), np.uint64), np.empty((total, 2), np.uint64)
        labels, side = np.empty(total, np.int32), np.empty(total, np.int8)
        for table in batches(file):
            some, placed = slice(start, start + len(table)), _place(table, task, shares)
            inputs, texts = learned.encode(placed.raw), member.texts(placed.raw)
            if blocks is None:
                like = {name: x[:1] for name, x in inputs.items()}
                row_bytes = 8 + sum(x.nbytes for x in [*like.values(), *texts.values()])
                blocks = Blocks(folder, min(max(row_bytes * total // BLOCK_BYTES, 1), MAX_BLOCKS))
            labels[some], content[some], ids[some], side[some] = placed.labels, placed.content, placed.ids, placed.side
            if placed.keys is not None:
                keys.append(placed.keys)
            if placed.near is not None:
                near.append(placed.near)
            blocks.add(start, placed.side, placed.ids, inputs, texts)
            start += len(table)
    if blocks is None:
        raise DataError("there are no valid rows; run validate on these data first")
    known = pa.concat_arrays(keys) if keys else None
    _check(task, labels, side, content, ids)
    alike = leaks(np.concatenate(near), side) if near else {}
    if alike:
        told = "; ".join(f"{a} and {b}: {n}" for (a, b), n in alike.items())
        log.warning("texts on two sides that differ in case, blanks and punctuation alone: %s", told)
    named = list(member.texts(placed.raw))

    fields = [("row_id", pa.string())]
    fields += [(f"input.{name}", pa.list_(pa.from_numpy_dtype(x.dtype), x.size)) for name, x in like.items()]
    schema = pa.schema([*fields, *((f"text.{name}", pa.string()) for name in named), ("label", pa.int32())])

    def write(split: str) -> Iterator[dict[str, np.ndarray]]:
        with pq.ParquetWriter(out / f"{split}.parquet", schema, compression="zstd") as writer:
            for numbers, inputs, texts in blocks.read(split, like):
                order = np.lexsort((ids[numbers, 1], ids[numbers, 0]))
                numbers, inputs = numbers[order], {name: x[order] for name, x in inputs.items()}
                lists = [pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x[0].size) for x in inputs.values()]
                row_ids = _hex(content[numbers]) if known is None else known.take(pa.array(numbers))
                words = [texts[name].take(pa.array(order)) for name in named]
                writer.write_table(pa.table([row_ids, *lists, *words, pa.array(labels[numbers])], schema=schema))
                yield inputs

    statistics = member.statistics(write("train"))
    for name in SPLITS[1:]:
        for _ in write(name):
            pass
    shutil.rmtree(folder)
    Spec(
        task=task.kind,
        inputs={name: "float32" if x.dtype.kind == "f" else "int64" for name, x in like.items()},
        shape=list(next(iter(like.values())).shape[1:]),
        classes=task.classes,
        statistics=statistics,
        vocabulary=learned.vocabulary,
        placing=Placing(key=task.columns.key, declared=declared, shares=shares),
    ).write(out)
    beside: dict[str, dict[str, int]] = {}
    if prepare.corpus is not None and isinstance(task, TextClassification) and learned.vocabulary is not None:
        beside["corpus"] = unlabelled.run(prepare.corpus, raw, task, learned.vocabulary, schema, out)
    counts = [np.bincount(labels[side == i], minlength=len(task.classes)) for i in range(len(SPLITS))]
    return {
        "rows": {name: int(count.sum()) for name, count in zip(SPLITS, counts, strict=True)},
        "least_class_rows": {name: int(count.min()) for name, count in zip(SPLITS, counts, strict=True)},
        **({"near_duplicates": {f"{a}_{b}": n for (a, b), n in alike.items()}} if near else {}),
        **beside,
    }


def _check(task: Task, labels: np.ndarray, side: np.ndarray, content: np.ndarray, ids: np.ndarray) -> None:
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
