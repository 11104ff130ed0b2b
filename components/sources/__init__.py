"""Where rows come from. One file a source kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from components.sources import csv, embedded, hub, image_folder, jsonl, npz, parquet

if TYPE_CHECKING:
    import pyarrow as pa


class Source(Protocol):
    """What a file in sources/ offers. `observe` is called at every run and imports nothing heavy."""

    def observe(self, params: Any, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what identifies the data, with its sha256; file stats that spare hashing it again, given back as `earlier`).

        Only the first wakes `ingest`: a file that was touched and has the same bytes must not change it.
        """
        ...

    def read(self, params: Any) -> pa.RecordBatchReader:
        """All rows, in the source's order, a batch at a time; the reader or its batches raise DataError for what
        cannot be read whole."""
        ...


SOURCES: dict[str, Source] = {
    "embedded": embedded,
    "csv": csv,
    "parquet": parquet,
    "jsonl": jsonl,
    "npz": npz,
    "image_folder": image_folder,
    "hub": hub,
}
