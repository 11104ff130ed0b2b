"""One Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.hashing import sha256_known

if TYPE_CHECKING:
    import pyarrow as pa

    from components.params import Parquet


def observe(params: Parquet, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file's path and sha256; its stats, so that it is hashed again only when they differ."""
    try:
        sha256, stat = sha256_known(Path(params.path), earlier)
    except OSError as error:
        raise DataError(f"source.path {params.path}: cannot be read: {error.strerror}; correct the path") from None
    return {"kind": params.kind, "path": params.path, "sha256": sha256}, stat


def read(params: Parquet) -> pa.RecordBatchReader:
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"source.path {params.path}"
    try:
        # ParquetFile, not read_table: the latter takes column types from folder names and reads whole folders.
        with pq.ParquetFile(params.path) as file:
            table = file.read()
    except OSError as error:  # pyarrow's ArrowIOError is OSError
        raise DataError(f"{where}: cannot be read: {error}") from None
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{where}: is not a whole Parquet file (truncated, or another format): {reason}") from None
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise DataError(f"{where}: columns appear more than once: {twice[:5]}; rename or drop them")
    if len(table) == 0:
        raise DataError(f"{where}: has columns but no rows; check what writes it")
    return table.replace_schema_metadata(None).to_reader()
