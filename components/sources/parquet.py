"""One Parquet file."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.hashing import sha256_known

if TYPE_CHECKING:
    import pyarrow as pa

    from components.params import Parquet

BATCH_BYTES = 16 << 20  # as stored
ROWS_PER_BYTE = 8  # rows that differ take a bit each


def observe(params: Parquet, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file's path and sha256; its stats, so that it is hashed again only when they differ."""
    try:
        sha256, stat = sha256_known(Path(params.path), earlier)
    except OSError as error:
        raise DataError(f"source.path {params.path}: cannot be read: {error.strerror}; correct the path") from None
    return {"kind": params.kind, "path": params.path, "sha256": sha256}, stat


def read(params: Parquet) -> pa.RecordBatchReader:
    """A batch at a time; what is damaged inside the file shows only when its batch is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"source.path {params.path}"
    with _told(where):
        # ParquetFile, not read_table: the latter takes column types from folder names and reads whole folders.
        file = pq.ParquetFile(params.path, pre_buffer=False)  # else it holds all that it has read
        schema = file.schema_arrow.remove_metadata()
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise DataError(f"{where}: columns appear more than once: {twice[:5]}; rename or drop them")
    if file.metadata.num_rows == 0:
        raise DataError(f"{where}: has columns but no rows; check what writes it")
    file_bytes = Path(params.path).stat().st_size
    if file.metadata.num_rows > ROWS_PER_BYTE * file_bytes:
        raise DataError(
            f"{where}: has {file.metadata.num_rows:,} rows in {file_bytes:,} bytes, so nearly all are the same; check "
            "what writes it"
        )
    stored = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    size = min(max(BATCH_BYTES * file.metadata.num_rows // max(stored, 1), 256), 65_536)

    def rows() -> Iterator[pa.RecordBatch]:
        with _told(where), file:
            for batch in file.iter_batches(size):
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, rows())


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except OSError as error:  # pyarrow's ArrowIOError is OSError
        raise DataError(f"{where}: cannot be read: {error}") from None
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{where}: is not a whole Parquet file (truncated, or another format): {reason}") from None
