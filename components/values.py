"""Columns of raw tables as values: whatever type a source has given them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array; categories become their values."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def read_numbers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(float64 values, which of them are something else than a number); null and what is no number become NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan), np.zeros(len(array), bool)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = pc.cast(array, pa.float64(), safe=False)
        return np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64), np.zeros(len(array), bool)
    present = np.array(pc.is_valid(array).to_numpy(zero_copy_only=False))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return np.full(len(array), np.nan), present
    text = pc.utf8_trim_whitespace(array)
    readable = pc.match_substring_regex(text, NUMBER)
    values = pc.cast(pc.if_else(readable, text, pa.scalar(None, kind)), pa.float64())
    return (
        np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64),
        present & ~np.array(pc.fill_null(readable, False).to_numpy(zero_copy_only=False)),
    )


def leaves(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The values of (nested) lists, and for each the row that it belongs to."""
    import pyarrow.compute as pc

    rows = np.arange(len(array))
    while is_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        rows, array = np.repeat(rows, lengths), plain(pc.list_flatten(array))
    return array, rows


def is_null(array: pa.Array) -> np.ndarray:
    import pyarrow.compute as pc

    return np.array(pc.is_null(array).to_numpy(zero_copy_only=False))


def names_of(column: pa.ChunkedArray) -> pa.Array:
    """Values as text, so that 3, 3.0 and "3" are the same class; null and NaN are null."""
    import pyarrow as pa

    def name(value: object) -> str | None:
        if value is None or value != value:
            return None
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)

    array = plain(column)
    if is_list(array.type):  # refused by the rules on columns
        return pa.array([str(value) for value in array.to_pylist()], pa.string())
    coded = array.dictionary_encode()  # one text for each distinct value, not for each row
    return pa.array([name(value) for value in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)
