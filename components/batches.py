"""Rows of a Parquet file, a bounded number in memory at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_BYTES = 4 << 20  # as stored; a byte a pixel becomes several arrays of eight


def open_parquet(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, pre_buffer=False)  # which would hold every column it has read until it is closed


def batches(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows in order, or these columns of them; the same batches each time."""
    import pyarrow as pa

    groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    rows = BATCH_BYTES * max(file.metadata.num_rows, 1) // max(sum(groups), 1)
    for batch in file.iter_batches(min(max(rows, 1), 65_536), columns=columns):
        yield pa.Table.from_batches([batch])
