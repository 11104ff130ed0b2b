"""Split valid rows by a hash of their id, so that no row changes sides when data grow; learn what preprocessing needs.

Row id: the declared key, else a hash of the inputs without the label, so that equal inputs share a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from components.data import Spec
from components.errors import DataError
from components.params import ImageClassification, Prepare
from components.tasks import TASKS

SPLITS = ("train", "validation", "calibration", "test")


def positions(row_ids: Sequence[str]) -> np.ndarray:
    """Where each id falls in [0, 1]: 64 bits of its SHA-256. Depends on nothing else."""
    heads = b"".join(hashlib.sha256(row_id.encode()).digest()[:8] for row_id in row_ids)
    return np.frombuffer(heads, dtype=">u8").astype(np.float64) / 2.0**64


def assign(row_ids: Sequence[str], shares: Sequence[float]) -> list[np.ndarray]:
    """Row numbers of each share, in the order of their positions."""
    at = positions(row_ids)
    side = np.searchsorted(np.cumsum(shares)[:-1], at, side="right")
    order = np.lexsort((np.asarray(row_ids), at))
    return [order[side[order] == i] for i in range(len(shares))]


def leaks(content: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], int]:
    """How many inputs two splits share, for the pairs that share any."""
    sets = {name: set(hashes) for name, hashes in content.items()}
    return {(a, b): n for a, b in combinations(sets, 2) if (n := len(sets[a] & sets[b]))}


def run(task: ImageClassification, prepare: Prepare, valid: Path, out: Path) -> dict[str, dict[str, int]]:
    """One Parquet file a split (row_id, input.<name>, label), rows in hash order, and spec.json."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    member = TASKS[task.kind]
    table = pq.read_table(valid / "data.parquet")
    inputs, labels = member.read(table, task)
    content = member.content(inputs)
    row_ids = member.keys(table, task) or content
    if len(set(row_ids)) < len(row_ids):
        raise DataError(f"{len(row_ids) - len(set(row_ids))} rows share their id with another; run validate first")
    del table

    shares = [getattr(prepare.split, name) for name in SPLITS]
    rows = dict(zip(SPLITS, assign(row_ids, shares), strict=True))
    if empty := [name for name in SPLITS if not len(rows[name])]:
        raise DataError(
            f"prepare.split: {len(labels)} rows leave {empty} without any; raise the share or bring more rows"
        )
    per_class = {name: np.bincount(labels[rows[name]], minlength=len(task.classes)) for name in SPLITS}
    if missing := [name for name, count in zip(task.classes, per_class["train"], strict=True) if not count]:
        raise DataError(
            f"task.classes: the training split has no row of {missing[:10]}; bring more rows or drop the class"
        )
    if shared := leaks({name: [content[i] for i in rows[name]] for name in SPLITS}):
        found = "; ".join(f"{a} and {b} share {n}" for (a, b), n in shared.items())
        raise DataError(f"the splits share inputs under different keys ({found}): duplicates; run validate first")

    for name in SPLITS:
        at = rows[name]
        lists = {}
        for key, x in inputs.items():
            values = x[at].reshape(len(at), -1)
            lists[f"input.{key}"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        ids = pa.array([row_ids[i] for i in at], pa.string())
        split = pa.table({"row_id": ids, **lists, "label": pa.array(labels[at], pa.int32())})
        pq.write_table(split, out / f"{name}.parquet", compression="zstd")
    learned = member.statistics({key: x[rows["train"]] for key, x in inputs.items()})
    Spec(task=task.kind, shape=task.shape, classes=task.classes, statistics=learned).write(out)
    return {
        "rows": {name: len(rows[name]) for name in SPLITS},
        "least_class_rows": {name: int(per_class[name].min()) for name in SPLITS},
    }
