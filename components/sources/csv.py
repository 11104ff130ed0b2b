"""One CSV file: UTF-8 (a byte order mark is skipped), any line ends, a header, `"` for quotes."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.hashing import sha256_known

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv as pc

    from components.params import Csv

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 2 << 20  # of a file, parsed at once; small ones stay in the processor's cache
HEADERS = 8  # at least so many times the header's length, since no row may be longer than a block
MAX_HEADER_BYTES = 8 << 20
SHOWN_ROWS = 5
MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", b"\x1f\x8b": "gzip", b"PK": "zip"}


def observe(params: Csv, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file's path and sha256; its stats, so that it is hashed again only when they differ."""
    try:
        sha256, stat = sha256_known(Path(params.path), earlier)
    except OSError as error:
        raise DataError(f"source.path {params.path}: cannot be read: {error.strerror}; correct the path") from None
    return {"kind": params.kind, "path": params.path, "sha256": sha256}, stat


def _check_text(path: Path, delimiter: str, where: str) -> None:
    """Refuse what pyarrow would take without a word (NUL, a quote never closed) or explain badly."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, quotes, blank = 1, 0, True
    with path.open("rb") as file:
        start = file.read(2)
        for mark, kind in MARKS.items():
            if start == mark:
                raise DataError(f"{where}: is {kind}, not UTF-8 text; convert it")
        file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            if (at := chunk.find(b"\0")) >= 0:
                raise DataError(f"{where}, line {line + chunk.count(10, 0, at)}: has a NUL byte; the file is damaged")
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                at_line = line + error.object.count(10, 0, error.start)
                raise DataError(f"{where}, line {at_line}: byte 0x{byte:02x} is not UTF-8; convert the file") from None
            line, quotes = line + chunk.count(10), quotes + chunk.count(b'"')
            blank = blank and not text.strip("\ufeff \t\r\n")
    if decoder.getstate()[0]:
        raise DataError(f"{where}, line {line}: ends inside a character; the file is truncated")
    if blank:
        raise DataError(f"{where}: is empty; check what writes it")
    if quotes % 2 and (opened := _open_quote(path, delimiter)):  # odd alone is no fault: 5" tall
        raise DataError(f"{where}, line {opened}: opens a quote that nothing closes; the file is truncated or damaged")


def _open_quote(path: Path, delimiter: str) -> int | None:
    """The line on which a quoted field opens that nothing closes, or None. Quotes inside an unquoted field are text."""
    line, opened, inside, closed = 1, 0, False, -2  # closed: where the last field that was quoted closed
    start, before, starts = 0, "\n", {delimiter, "\n", "\r"}
    with path.open("r", encoding="utf-8-sig", newline="") as file:
        while text := file.read(CHUNK_BYTES):
            counted, at = 0, text.find('"')
            while at >= 0:
                if inside:
                    inside, closed = False, start + at
                elif closed == start + at - 1:  # doubled inside a field
                    inside = True
                elif (text[at - 1] if at else before) in starts:
                    line, counted = line + text.count("\n", counted, at), at
                    inside, opened = True, line
                at = text.find('"', at + 1)
            line, start, before = line + text.count("\n", counted), start + len(text), text[-1]
    return opened if inside else None


def _lines(path: Path, texts: list[str]) -> list[int]:
    """Line numbers of rows given by their text, in file order: pyarrow counts neither blank nor continued lines."""
    found: list[int] = []
    with path.open("r", encoding="utf-8-sig", newline="") as file:
        for number, line in enumerate(file, 1):
            if len(found) == len(texts):
                break
            if line.rstrip("\r\n") == (texts[len(found)].splitlines() or [""])[0]:
                found.append(number)
    return found


def read(params: Csv) -> pa.RecordBatchReader:
    """Columns of whole numbers, numbers or text (true, dates and 0x10 stay text); an empty unquoted field is null.

    Read twice, a block at a time: for what each column holds in the whole file, then for the rows.
    """
    import pyarrow as pa

    path, where = Path(params.path), f"source.path {params.path}"
    try:
        _check_text(path, params.delimiter, where)
        schema = _schema(params, path, where)
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: cannot be parsed: {str(error).splitlines()[0]}") from None

    def rows() -> Iterator[pa.RecordBatch]:
        try:
            yield from _open(params, {field.name: field.type for field in schema}, None)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{where}: cannot be read again: {str(error).splitlines()[0]}") from None

    return pa.RecordBatchReader.from_batches(schema, rows())


def _open(
    params: Csv, types: Mapping[str, pa.DataType], skip: Callable[[pc.InvalidRow], str] | None
) -> pc.CSVStreamingReader:
    import pyarrow.csv as pc

    with Path(params.path).open("rb") as file:
        block_bytes = max(BLOCK_BYTES, HEADERS * len(file.readline(MAX_HEADER_BYTES)))
    return pc.open_csv(
        params.path,
        # One thread: only then are rows numbered, and batches the same from run to run.
        read_options=pc.ReadOptions(use_threads=False, block_size=block_bytes),
        parse_options=pc.ParseOptions(delimiter=params.delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pc.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _schema(params: Csv, path: Path, where: str) -> pa.Schema:
    """The narrowest type that takes all of a column. Raises DataError for rows and headers that do not fit."""
    import pyarrow as pa

    ragged: list[pc.InvalidRow] = []  # the first ones, and the last
    skipped = rows = 0

    def skip(row: pc.InvalidRow) -> str:
        nonlocal skipped
        skipped += 1
        ragged[SHOWN_ROWS:] = [row]
        return "skip"

    with _open(params, {}, lambda _: "skip") as reader:
        names = reader.schema.names
    types = [pa.null()] * len(names)
    with _open(params, dict.fromkeys(names, pa.string()), skip) as reader:
        for batch in reader:
            rows += len(batch)
            types = [_widened(kind, column) for kind, column in zip(types, batch.columns, strict=True)]
    if skipped:
        shown = list(zip(_lines(path, [row.text for row in ragged[:SHOWN_ROWS]]), ragged, strict=False))
        told = "; ".join(
            f"line {line} has {row.actual_columns} fields, the header {row.expected_columns}: {row.text[:60]!r}"
            for line, row in shown
        )
        cut = "; the last line is cut off: the file is truncated" if _ends_with(path, ragged[-1].text) else ""
        raise DataError(f"{where}: {skipped} rows do not fit the header{cut}. {told}")
    if wrong := [name for name, count in Counter(names).items() if count > 1 or not name.strip()]:
        raise DataError(f"{where}: the header has columns without a name, or twice the same: {wrong[:5]}")
    if rows == 0:
        raise DataError(f"{where}: has a header but no rows; check what writes it")
    return pa.schema(list(zip(names, types, strict=True)))


def _widened(kind: pa.DataType, texts: pa.Array) -> pa.DataType:
    """`kind`, or the next wider one that takes these too: null, int64, double, string."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if texts.null_count == len(texts) or pa.types.is_string(kind):
        return kind
    # Whole numbers to pyarrow's parser, but not numbers: a later 1.5 would find no type that takes both.
    if pc.any(pc.match_substring_regex(texts, r"^[ \t]*-?0[xX]")).as_py():
        return pa.string()
    for wider in (pa.int64(), pa.float64()):
        if pa.types.is_floating(kind) and wider != kind:
            continue
        for numbers in (texts, pc.ascii_trim(texts, " \t")):  # the parser trims numbers; most need it not
            try:
                pc.cast(numbers, wider)
            except pa.ArrowInvalid:
                continue
            return wider
    return pa.string()


def _ends_with(path: Path, text: str) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(text.encode()) - 2))
        return file.read().decode("utf-8", "replace").rstrip("\r\n").endswith(text)
