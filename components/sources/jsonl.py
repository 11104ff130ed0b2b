"""One file of JSON lines: UTF-8, an object a line; blank lines are skipped, a key that a line lacks is null there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.hashing import sha256_known

if TYPE_CHECKING:
    import pyarrow as pa

    from components.params import Jsonl

BATCH_BYTES = 4 << 20  # of text, parsed at once
LINE_BYTES = 64 << 20
Rows = list[tuple[int, dict[str, Any]]]


def observe(params: Jsonl, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file's path and sha256; its stats, so that it is hashed again only when they differ."""
    try:
        sha256, stat = sha256_known(Path(params.path), earlier)
    except OSError as error:
        raise DataError(f"source.path {params.path}: cannot be read: {error.strerror}; correct the path") from None
    return {"kind": params.kind, "path": params.path, "sha256": sha256}, stat


def read(params: Jsonl) -> pa.RecordBatchReader:
    """Read twice, a batch at a time: for what each key holds in the whole file, then for the rows."""
    import pyarrow as pa

    where = f"source.path {params.path}"
    types: dict[str, pa.DataType] = {}
    count = 0
    for rows in _batches(params.path, where):
        count += len(rows)
        for name in dict.fromkeys(name for _, row in rows for name in row):
            types[name] = _widened(name, types.get(name, pa.null()), rows, where)
    if not count:
        raise DataError(f"{where}: has no rows; check what writes it")
    schema = pa.schema(list(types.items()))

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in _batches(params.path, where):
            try:
                arrays = [pa.array([row.get(name) for _, row in rows], kind) for name, kind in types.items()]
            except (pa.ArrowException, OverflowError, TypeError) as error:
                raise DataError(f"{where}: lines {rows[0][0]} to {rows[-1][0]}: {error}; make the types one") from None
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _batches(path: str, where: str) -> Iterator[Rows]:
    """(line number, object) of each line, in lists of some megabytes of text."""
    rows: Rows = []
    size, number = 0, 0
    try:
        with Path(path).open("rb") as file:
            while line := file.readline(LINE_BYTES):
                number += 1
                if len(line) == LINE_BYTES:
                    raise DataError(f"{where}, line {number}: is longer than {LINE_BYTES >> 20} MB; is it one object?")
                if line.strip(b" \t\r\n\xef\xbb\xbf"):
                    rows.append((number, _object(line, number, where)))
                size += len(line)
                if size >= BATCH_BYTES:
                    yield rows
                    rows, size = [], 0
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}; correct the path") from None
    if rows:
        yield rows


def _object(line: bytes, number: int, where: str) -> dict[str, Any]:
    at = f"{where}, line {number}"

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise DataError(f"{at}: has a key twice; keep one: {line[:60]!r}")
        return found

    def constant(text: str) -> None:
        raise DataError(f"{at}: {text} is not JSON; write null")

    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        value = json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise DataError(f"{at}: byte 0x{line[error.start]:02x} is not UTF-8; convert the file") from None
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else "; the last line is cut off: the file is truncated"
        raise DataError(f"{at}: is not JSON: {error}: {text[:60]!r}{cut}") from None
    if not isinstance(value, dict):
        raise DataError(f"{at}: is {type(value).__name__}, not an object; write one object a line: {text[:60]!r}")
    return value


def _widened(name: str, kind: pa.DataType, rows: Rows, where: str) -> pa.DataType:
    """The narrowest type that takes these too. Raises DataError with the line where two types meet."""
    import pyarrow as pa

    def union(kind: pa.DataType, values: list[Any]) -> pa.DataType:
        fields = [pa.schema([(name, kind)]), pa.schema([(name, pa.array(values).type)])]
        return pa.unify_schemas(fields, promote_options="permissive").field(name).type

    try:
        return union(kind, [row.get(name) for _, row in rows])
    except (pa.ArrowException, OverflowError):
        for number, row in rows:
            try:
                kind = union(kind, [row.get(name)])
            except (pa.ArrowException, OverflowError):
                shown = json.dumps(row[name])[:60]
                raise DataError(
                    f"{where}, line {number}: {name!r} is {shown}, but {kind} in the lines before; make it one type"
                ) from None
        return kind
