"""What data are held against: the rules of any task, and the user's, checked before any data are read."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

from components.errors import ParamsError
from components.params import Expectation, ImageColumns, TextColumns, Validate
from components.quarantine import columns_named

OURS = {"id", "meta", "result_format", "catch_exceptions", "rendered_content", "severity", "windows", "batch_id"}
OURS |= {"row_condition", "condition_parser"}  # code in a string, run by pandas


def _rule(severity: Literal["stop", "quarantine"], expect: str, notes: str, **arguments: Any) -> Expectation:
    return Expectation(expect=f"expect_{expect}", severity=severity, arguments={**arguments, "notes": notes})


def of_any_task(validate: Validate, declared: ImageColumns | TextColumns) -> dict[str, list[Expectation]]:
    """What must hold whatever the task: enough rows, no empty column, nothing twice."""
    none, zero = "column_values_to_be_in_set", [0]
    copies = "an earlier row has the same inputs and the same label"
    others = "another row has the same inputs and a different label"
    empty = "the column has no value at all"
    few = "there are too few rows (validate.min_rows)"
    rows = [
        _rule("stop", "table_row_count_to_be_between", few, min_value=validate.min_rows),
        _rule("quarantine", none, copies, column="earlier_copies", value_set=zero),
        _rule("quarantine", none, others, column="other_labels", value_set=zero),
    ]
    if declared.split:
        held_out = "a row of another split, held out from this one, has the same inputs"
        rows.append(_rule("quarantine", none, held_out, column="held_out_copies", value_set=zero))
    if declared.key:
        clash = "another row has the same key and differs"
        rows.append(_rule("quarantine", none, clash, column="key_clashes", value_set=zero))
    full = _rule("stop", "column_values_to_be_between", empty, column="null_share", max_value=1.0, strict_max=True)
    return {"columns": [full], "rows": rows}


def check(expectations: Sequence[Expectation]) -> None:
    """Hold the user's rules against Great Expectations' own declarations. Raises ParamsError with every mistake."""
    import great_expectations.expectations as gxe
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations import expectation as kinds
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    assert gxe  # noqa: S101 - the import registers the expectations
    known = [name for name in list_registered_expectation_implementations() if name.startswith("expect_")]
    by_row = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    errors = []
    for i, rule in enumerate(expectations):
        where = f"validate.expectations.{i}"
        try:
            kind = get_expectation_impl(rule.expect)
        except ExpectationNotFoundError:
            errors.append(f"{where}.expect: Great Expectations has no {rule.expect!r}{_close(rule.expect, known)}")
            continue
        allowed = sorted(set(kind.__fields__) - OURS)
        unknown = [name for name in rule.arguments if name not in allowed]
        for name in unknown:
            hint = _close(name, allowed) or f"; it takes {', '.join(allowed)}"
            errors.append(f"{where}.arguments.{name}: {rule.expect} takes no such argument here{hint}")
        try:
            kind(**{name: value for name, value in rule.arguments.items() if name not in unknown})
        except ValueError as error:  # pydantic's
            found = error.errors() if hasattr(error, "errors") else [{"loc": (), "msg": str(error)}]
            for item in found:
                at = ".".join(str(step) for step in item["loc"] if step != "__root__")
                errors.append(f"{where}.arguments{'.' if at else ''}{at}: {item['msg']} ({rule.expect})")
        if rule.severity == "quarantine" and not issubclass(kind, by_row):
            errors.append(
                f"{where}.severity: {rule.expect} is not about single rows, so none can be set aside; use stop"
            )
    if errors:
        raise ParamsError(errors)


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 3, 0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def check_columns(expectations: Sequence[Expectation], known: Sequence[str]) -> None:
    """Raises ParamsError with every column that a user's rule names and the data do not have."""
    errors = [
        f"validate.expectations.{i}.arguments: there is no column {name!r}"
        f"{_close(name, known) or '; there are ' + ', '.join(known)}"
        for i, rule in enumerate(expectations)
        for name in columns_named(rule)
        if name not in known
    ]
    if errors:
        raise ParamsError(errors)
