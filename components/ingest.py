"""Bring one version of the data in: data.parquet with the source's columns, corpus.parquet if there is one, and
manifest.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.hashing import sha256_file
from components.memory import at_most
from components.params import Prepare, Source
from components.sources import SOURCES

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 65_536  # rows: at most so many are in memory at once ...
GROUP_BYTES = 64 << 20  # ... or so many bytes, and a batch
MEMORY_MB = 1_536  # of it all: some hundred MB are needed for what is as large as it looks


def _groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Batches put together into row groups of one size, however small the source's are."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    for batch in reader:
        held.append(batch)
        if sum(map(len, held)) < ROW_GROUP and sum(part.nbytes for part in held) < GROUP_BYTES:
            continue
        table = pa.Table.from_batches(held)
        whole = len(table) // ROW_GROUP * ROW_GROUP or len(table)
        yield table.slice(0, whole)
        held = table.slice(whole).to_batches()
    if held:
        yield pa.Table.from_batches(held)


def bring(source: Source, observed: Path, path: Path, column: str | None = None) -> dict[str, Any]:
    """Write the rows, or one column of them, to `path`; returns what identifies them. Same input, same bytes.

    Raises DataError if there is no such column, or if the data changed since they were observed.
    """
    member = SOURCES[source.kind]
    earlier = json.loads(observed.read_text("utf-8"))
    try:
        with at_most(MEMORY_MB):
            schema, rows = _write(source, path, column)
    except MemoryError:
        raise DataError(
            f"the {source.kind} data unpack to more than {MEMORY_MB:,} MB at once: too much in one row, or something "
            "made to be unpacked without end; look at what wrote it, or store it in rows of less"
        ) from None
    identity, _ = member.observe(source, None)
    if identity != earlier:
        raise DataError(f"the {source.kind} data changed while they were read; run again")
    return {
        "source": identity,
        "rows": rows,
        "columns": {field.name: str(field.type) for field in schema},
        "sha256": sha256_file(path),
    }


def _write(source: Source, path: Path, column: str | None) -> tuple[pa.Schema, int]:
    """(the schema of what was written, how many rows)"""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    with SOURCES[source.kind].read(source) as reader:
        schema = reader.schema
        if column is not None:
            if column not in schema.names:
                raise DataError(f"has no column {column!r}; it has {', '.join(schema.names[:20])}")
            schema = pa.schema([schema.field(column)])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _groups(reader):
                writer.write_table(table.select(schema.names), ROW_GROUP)
                rows += len(table)
    return schema, rows


def run(source: Source, prepare: Prepare, observed: Path, corpus: Path, out: Path) -> dict[str, int]:
    """`observed` and `corpus` say what the source and prepare.corpus were when they were looked at."""

    def brought(where: str, *what: Any) -> dict[str, Any]:
        try:
            return bring(*what)
        except DataError as error:
            # What a source says of itself begins with its own place.
            raise DataError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None

    manifest = brought("source", source, observed, out / "data.parquet")
    figures = {"rows": manifest["rows"], "columns": len(manifest["columns"])}
    if beside := prepare.corpus:
        path = out / "corpus.parquet"
        manifest["corpus"] = brought("prepare.corpus", beside.source, corpus, path, beside.column)
        figures["corpus_rows"] = manifest["corpus"]["rows"]
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return figures | {"bytes": (out / "data.parquet").stat().st_size}
