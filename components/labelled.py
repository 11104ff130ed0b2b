"""Raw rows that carry a label and may carry a key and a split: what schemas of labelled rows share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from components.data import SPLITS
from components.params import Expectation, ImageClassification, TextClassification
from components.values import is_list, names_of, plain

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Labelled = ImageClassification | TextClassification


def rule(severity: Literal["stop", "quarantine"], expect: str, notes: str, **arguments: Any) -> Expectation:
    return Expectation(expect=f"expect_{expect}", severity=severity, arguments={**arguments, "notes": notes})


def keys(table: pa.Table, params: Labelled) -> pa.Array | None:
    """The declared key of each row as text, or None if none is declared."""
    return None if params.columns.key is None else names_of(table.column(params.columns.key)).fill_null("")


def splits(table: pa.Table, params: Labelled) -> pa.Array | None:
    """The declared split of each row as text, or None if none is declared."""
    if params.columns.split is None:
        return None
    words: Mapping[str, str] = getattr(params, "splits", None) or {}
    return _renamed(names_of(table.column(params.columns.split)), words)


def labels(table: pa.Table, params: Labelled) -> pa.Array:
    """The label of each row as the class is called in params."""
    called = getattr(params, "labels", None) or params.classes
    return _renamed(names_of(table.column(params.columns.label)), dict(zip(called, params.classes, strict=True)))


def _renamed(names: pa.Array, words: Mapping[str, str]) -> pa.Array:
    import pyarrow as pa

    if all(old == new for old, new in words.items()):
        return names
    coded = names.dictionary_encode()
    # A name that a word is renamed to is no longer one of the data's own: it would hide a mistake.
    known = [
        words.get(name) or (f"{name} (as it stands)" if name in words.values() else name)
        for name in coded.dictionary.to_pylist()
    ]
    return pa.array(known, pa.string()).take(coded.indices)


def numbers(table: pa.Table, params: Labelled) -> np.ndarray:
    """Class numbers, int32; -1 for what is no class."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(labels(table, params), value_set=pa.array(params.classes, pa.string())).fill_null(-1)
    return np.array(found.to_numpy(zero_copy_only=False), np.int32)


def features(table: pa.Table, params: Labelled) -> dict[str, pa.Array]:
    """label, key and split of each row; what belongs to a column that is not there is left out."""
    found, there, names = {}, table.column_names, params.columns
    if names.label in there:
        found["label"] = labels(table, params)
    if names.key in there:
        found["key"] = names_of(table.column(names.key))
    if names.split in there:
        found["split"] = splits(table, params)
    return found


def kind_of(column: pa.ChunkedArray) -> str:
    """number, text, empty or its type in words."""
    import pyarrow as pa

    array = plain(column)
    if is_list(array.type):
        return str(array.type)
    if pa.types.is_null(array.type):
        return "empty"
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        return "number"
    texts = pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_boolean(array.type)
    return "text" if texts else str(array.type)


def columns(
    table: pa.Table, params: Labelled, inputs: Mapping[str, str], ignored: Sequence[str], more: Mapping[str, Any]
) -> pd.DataFrame:
    """One row a raw column: column, role, extra (its name if it has no role), name_kind of label, key and split, and
    `more`: by the name of a figure, a function of a column's name to its value.

    `inputs` has the role of each column that is an input.
    """
    import pandas as pd

    names = params.columns
    roles: dict[str | None, str] = {names.label: "label", names.key: "key", names.split: "split"}
    roles.update(inputs)
    found = [(name, roles.get(name)) for name in table.column_names if name not in ignored]
    named = ("label", "key", "split")
    shown = {
        "column": [name for name, _ in found],
        "role": [role for _, role in found],
        "extra": [None if role else name for name, role in found],
        "name_kind": [kind_of(table.column(name)) if role in named else None for name, role in found],
        **{figure: [value(name, role) for name, role in found] for figure, value in more.items()},
    }
    return pd.DataFrame({figure: pd.Series(values, dtype="object") for figure, values in shown.items()})


def column_rules(wanted: str, roles: Sequence[str], count: int) -> list[Expectation]:
    """`roles` must be there, no other column may be; `wanted` says in words what task.columns names."""
    return [
        rule(
            "stop",
            "table_row_count_to_equal",
            f"the number of columns; task.columns wants {wanted}: {count} in all",
            value=count,
        ),
        rule(
            "stop",
            "column_distinct_values_to_contain_set",
            f"a column is missing or renamed; task.columns wants {wanted}",
            column="role",
            value_set=list(roles),
        ),
        rule(
            "stop",
            "column_values_to_be_null",
            "task.columns does not name this column; drop it, or correct its name",
            column="extra",
        ),
        rule(
            "stop",
            "column_values_to_be_in_set",
            "labels, keys and splits must be text or whole numbers",
            column="name_kind",
            value_set=["number", "text", "empty"],
        ),
    ]


def row_rules(params: Labelled) -> list[Expectation]:
    """What must hold of label, key and split."""
    in_set = "column_values_to_be_in_set"
    rows = [
        rule("quarantine", "column_values_to_not_be_null", "the label is missing", column="label"),
        rule("quarantine", in_set, "the label is not one of task.classes", column="label", value_set=params.classes),
        rule(
            "stop",
            "column_unique_value_count_to_be_between",
            "there must be at least two classes to tell apart",
            column="label",
            min_value=2,
        ),
    ]
    if params.columns.key:
        rows.append(rule("quarantine", "column_values_to_not_be_null", "the key is missing", column="key"))
    if params.columns.split:
        known = f"the split is not one of {SPLITS}"
        rows.append(rule("quarantine", "column_values_to_not_be_null", "the split is missing", column="split"))
        rows.append(rule("quarantine", in_set, known, column="split", value_set=list(SPLITS)))
    return rows


def wanted(params: Labelled) -> tuple[str, list[str]]:
    """(label, key and split in words, their roles)"""
    declared = [(role, getattr(params.columns, role)) for role in ("label", "key", "split")]
    given = [(role, name) for role, name in declared if name]
    return ", ".join(f"{role} {name!r}" for role, name in given), [role for role, _ in given]
