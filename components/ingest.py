"""Bring one version of the data in: data.parquet with the source's columns, and manifest.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import DataError
from components.hashing import sha256_file
from components.params import Source
from components.sources import SOURCES

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 65_536  # rows: at most so many are in memory at once ...
GROUP_BYTES = 64 << 20  # ... or so many bytes, and a batch


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


def run(source: Source, observed: Path, out: Path) -> dict[str, int]:
    """Same input, same bytes. Raises DataError if the data changed since they were observed."""
    import pyarrow.parquet as pq

    member = SOURCES[source.kind]
    earlier = json.loads(observed.read_text("utf-8"))
    path, rows = out / "data.parquet", 0
    with member.read(source) as reader, pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for table in _groups(reader):
            writer.write_table(table, ROW_GROUP)
            rows += len(table)
    identity, _ = member.observe(source, None)
    if identity != earlier:
        raise DataError(f"source: the {source.kind} data changed while they were read; run again")
    manifest = {
        "source": identity,
        "rows": rows,
        "columns": {field.name: str(field.type) for field in reader.schema},
        "sha256": sha256_file(path),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return {"rows": rows, "columns": len(reader.schema), "bytes": path.stat().st_size}
