"""Bring one version of the data in: data.parquet with the source's columns, and manifest.json."""

from __future__ import annotations

import json
from pathlib import Path

from components.errors import DataError
from components.hashing import sha256_file
from components.params import Source
from components.sources import SOURCES

ROW_GROUP = 65_536  # rows: what validate holds in memory at once


def run(source: Source, observed: Path, out: Path) -> dict[str, int]:
    """Same input, same bytes. Raises DataError if the data changed since they were observed."""
    import pyarrow.parquet as pq

    member = SOURCES[source.kind]
    earlier = json.loads(observed.read_text("utf-8"))
    path, rows = out / "data.parquet", 0
    with member.read(source) as reader, pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch, ROW_GROUP)
            rows += len(batch)
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
