"""Texts without labels, beside the labelled rows, that a masked language model also learns from: corpus.parquet.

Each text is cut into as many rows of `max_tokens` tokens as it fills. What cannot be used is left out and counted, and
so is a text that a row of validation, calibration or test holds: nothing learns from those.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components import text
from components.batches import batches, open_parquet
from components.data import SPLITS, TOKENIZER, Vocabulary
from components.errors import DataError
from components.params import Corpus, TextClassification

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "corpus.parquet"


def run(
    corpus: Corpus, raw: Path, task: TextClassification, vocabulary: Vocabulary, schema: pa.Schema, out: Path
) -> dict[str, int]:
    """Write out/corpus.parquet with the columns of a split, `schema`; its label is -1. Returns counts.

    `raw` has the texts as ingest brought them in, `out` the splits and the tokenizer. Raises DataError if none can be
    used.
    """
    import pyarrow.parquet as pq

    counts: Counter[str] = Counter()
    seen = _held_out(out)
    with open_parquet(raw / FILE) as file, pq.ParquetWriter(out / FILE, schema) as writer:
        for batch in batches(file, [corpus.column]):
            usable = list(_usable(batch.column(corpus.column), task, seen, counts))
            if table := _rows(usable, task, vocabulary, schema, out):
                writer.write_table(table)
                counts["rows"] += len(table)
    if not counts["rows"]:
        told = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in sorted(counts.items()))
        raise DataError(f"prepare.corpus: none of its texts can be used ({told or 'no rows'}); name another column")
    return dict(counts)


def _key(value: str) -> str:
    """Texts that differ in blanks only are one."""
    return hashlib.sha256(" ".join(value.split()).encode()).hexdigest()


def _held_out(prepared: Path) -> set[str]:
    """The texts that nothing may learn from."""
    found: set[str] = set()
    for split in SPLITS[1:]:
        with open_parquet(prepared / f"{split}.parquet") as file:
            names = [name for name in file.schema_arrow.names if name.startswith("text.")]
            for table in batches(file, names):
                found |= {_key(value) for name in names for value in table.column(name).to_pylist()}
    return found


def _usable(column: pa.ChunkedArray, task: TextClassification, seen: set[str], counts: Counter[str]) -> Iterator[str]:
    """The texts to learn from, each once; counts what is left out."""
    for value, fault in zip(*text.strings(column, task.max_characters), strict=True):
        counts["texts"] += 1
        if fault is not None or value is None:
            counts["not_usable"] += 1
        elif (key := _key(value)) in seen:
            counts["repeated_or_held_out"] += 1
        else:
            seen.add(key)
            yield value


def _rows(
    texts: Sequence[str], task: TextClassification, vocabulary: Vocabulary, schema: pa.Schema, out: Path
) -> pa.Table | None:
    """A table of `schema`, one row for each stretch of max_tokens tokens."""
    import pyarrow as pa

    tokenizer = text.load(out / TOKENIZER)
    found: list[tuple[str, list[int]]] = []
    for value, encoding in zip(texts, tokenizer.encode_batch(list(texts)), strict=True):
        key = _key(value)[:24]
        found += [(f"{key}-{at}", part.ids) for at, part in enumerate([encoding, *encoding.overflowing])]
    special = {vocabulary.start, vocabulary.separator, vocabulary.padding, vocabulary.unknown}
    found = [(row_id, ids) for row_id, ids in found if not special.issuperset(ids)]
    if not found:
        return None
    ids = np.full((len(found), task.max_tokens), vocabulary.padding, np.int32)
    mask = np.zeros_like(ids)
    for row, (_, tokens) in enumerate(found):
        real = [token for token in tokens if token != vocabulary.padding]
        ids[row, : len(real)], mask[row, : len(real)] = real, 1
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    columns: dict[str, Any] = {
        "row_id": pa.array([row_id for row_id, _ in found]),
        "label": pa.array(np.full(len(found), -1, np.int32)),
    }
    for name in schema.names:
        if name.startswith("input."):
            flat = pa.array(values[name.removeprefix("input.")].ravel())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, task.max_tokens)
        elif name.startswith("text."):
            columns[name] = pa.nulls(len(found), pa.string())  # of no use any more, and large
    return pa.table([columns[name] for name in schema.names], schema=schema)
