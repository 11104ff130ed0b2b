"""Hold raw data against the task's rules and the user's, with Great Expectations, before anything is trained on them.

Rows that break a `quarantine` rule are set aside, with every rule and reason. A broken `stop` rule, or too many
rows set aside, ends the run with all such breaches at once; report.json, docs/ and quarantine.parquet are
written first, so that they can be read then too.
"""

from __future__ import annotations

import difflib
import gc
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from components import data_docs
from components.batches import batches, open_parquet
from components.errors import DataError, ParamsError
from components.params import Expectation, ImageColumns, Task, TextColumns, Validate
from components.quarantine import (
    STOPPED_ROWS,
    Finding,
    columns_named,
    repeats,
    set_aside,
    short,
    too_many,
    value_of,
    write_rows,
)
from components.schemas import SCHEMAS
from components.seen import look

if TYPE_CHECKING:
    import pyarrow as pa

HEAD_ROWS = 1_000  # enough to tell what kind of values a column holds
EXAMPLES = 5
COLLECT_ROWS = 100_000  # fewer are not worth the 0.2 s
RESULT = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
OURS = {"id", "meta", "result_format", "catch_exceptions", "rendered_content", "severity", "windows", "batch_id"}
OURS |= {"row_condition", "condition_parser"}  # code in a string, run by pandas


# --- the rules -------------------------------------------------------------------------------------


def _rule(severity: Literal["stop", "quarantine"], expect: str, notes: str, **arguments: Any) -> Expectation:
    return Expectation(expect=f"expect_{expect}", severity=severity, arguments={**arguments, "notes": notes})


def rules_of_any_task(validate: Validate, declared: ImageColumns | TextColumns) -> dict[str, list[Expectation]]:
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


# --- Great Expectations ----------------------------------------------------------------------------


def evaluate(
    name: str,
    table: Callable[[Sequence[str]], pa.Table],
    columns: Sequence[str],
    rows: int,
    rules: Sequence[Expectation],
) -> tuple[list[Finding], str]:
    """(what came of each rule, the Data Docs page). `name` is what a line of the table is: rows or columns.

    A rule at a time, on the columns that it names: `table` reads them.
    """
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations import expectation as kinds
    from great_expectations.expectations.registry import get_expectation_impl

    # It sets its own level to INFO when imported, and names folders that it never makes.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.ERROR)
    by_column = (
        kinds.ColumnMapExpectation,
        kinds.ColumnPairMapExpectation,
        kinds.MulticolumnMapExpectation,
        kinds.ColumnAggregateExpectation,
    )
    findings, raw, meta = [], [], {}
    for i, rule in enumerate(rules):
        kind, named = get_expectation_impl(rule.expect), list(dict.fromkeys(columns_named(rule)))
        if issubclass(kind, by_column):
            frame = table(named).to_pandas(split_blocks=True)
        else:  # about the table: it looks at names and the number of rows
            frame = pd.DataFrame(np.zeros((rows, len(columns)), np.int8), columns=list(columns))
        context = gx.get_context(mode="ephemeral")  # one a rule: it holds on to what it was given
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": frame})
        suite = gx.ExpectationSuite(name=name, expectations=[kind(**rule.arguments, meta={"rule": i})])
        result = batch.validate(suite, result_format=RESULT)
        (item,) = result.results
        broken = np.array(item.result.pop("unexpected_index_list", None) or [], np.uint32)
        item.result.pop("partial_unexpected_index_list", None)
        findings.append(_finding(rule, item.to_json_dict(), name, broken, table))
        raw.append(item.to_json_dict())
        meta = result.meta
        del frame, batch, asset, context, result, item
        if rows > COLLECT_ROWS:
            gc.collect()  # its objects hold each other, and the frame
    good = sum(bool(item["success"]) for item in raw)
    statistics = {
        "evaluated_expectations": len(raw),
        "successful_expectations": good,
        "unsuccessful_expectations": len(raw) - good,
        "success_percent": 100 * good / len(raw) if raw else None,
    }
    whole = {"success": good == len(raw), "results": raw, "suite_name": name, "suite_parameters": {}}
    return findings, _page({**whole, "statistics": statistics, "meta": meta, "id": None})


def _finding(
    rule: Expectation,
    result: Mapping[str, Any],
    name: str,
    broken: np.ndarray,
    table: Callable[[Sequence[str]], pa.Table],
) -> Finding:
    columns = columns_named(rule)
    finding = Finding(f"{rule.expect}({', '.join(columns)})", rule, bool(result["success"]))
    if fault := _exception(result):
        finding.observed = f"it could not be computed: {fault}"
        return finding
    found = result["result"]
    if "observed_value" in found:
        finding.observed = f"found {short(found['observed_value'])}"
    if len(broken):
        line = name.removesuffix("s")
        shown = broken[:EXAMPLES]
        titles = table(["column"]).column(0).take(shown).to_pylist() if line == "column" else shown.tolist()
        for title, values in zip(titles, table(columns).take(shown).to_pylist(), strict=True):
            same = list(values.values()) == [title]
            finding.examples.append(f"{line} {short(title) if same else f'{title}: {value_of(values)}'}")
    if name == "rows" and not finding.success:
        finding.rows = broken
    finding.breaches = int(found.get("unexpected_count", 0) or 0)
    return finding


def _exception(result: Mapping[str, Any]) -> str:
    info = result.get("exception_info") or {}
    faults = [info] if "raised_exception" in info else list(info.values())
    return next((str(f["exception_message"]).splitlines()[0] for f in faults if f.get("raised_exception")), "")


def _page(result: dict[str, Any]) -> str:
    """The Data Docs page of one suite."""
    from great_expectations.core import expectationSuiteValidationResultSchema
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    lists = {"unexpected_list", "unexpected_index_list", "unexpected_index_query"}  # of every row: megabytes
    shown = []
    for item in result["results"]:
        fault = _exception(item)
        info = {"raised_exception": bool(fault), "exception_message": fault or None, "exception_traceback": ""}
        kept = {name: value for name, value in item["result"].items() if name not in lists}
        shown.append(data_docs.harmless({**item, "result": kept, "exception_info": info}))
    meta = {"great_expectations_version": result["meta"]["great_expectations_version"]}
    loaded = expectationSuiteValidationResultSchema.load({**result, "results": shown, "meta": meta})
    return data_docs.clean(str(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(loaded))))


# --- what Great Expectations looks at --------------------------------------------------------------


def run(task: Task, validate: Validate, raw: Path, out: Path) -> dict[str, float]:
    """data.parquet, quarantine.parquet (with row, rule, reason), report.json, docs/. Raises DataError, ParamsError."""
    import pyarrow as pa

    for name in ("features.parquet", "data.parquet", "quarantine.parquet", "report.json"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "docs", ignore_errors=True)
    check(validate.expectations)
    ours, tasks = rules_of_any_task(validate, task.columns), SCHEMAS[task.kind].expectations(task)
    scratch = out / "features.parquet"
    with open_parquet(raw / "data.parquet") as file:
        seen = look(file, task, scratch)
        head = next(batches(file), file.schema_arrow.empty_table()).slice(0, HEAD_ROWS)
        columns = SCHEMAS[task.kind].columns(head, task)
        nulls = [seen.nulls[name] for name in columns["column"]]
        columns = columns.assign(null_share=[some[0] / some[1] if some[1] else 0.0 for some in nulls])
        kinds = pa.Table.from_pandas(columns, preserve_index=False)
        column_rules = [*tasks["columns"], *ours["columns"]]
        column_findings, column_page = evaluate("columns", kinds.select, kinds.column_names, len(kinds), column_rules)
        if all(finding.success for finding in column_findings):
            _check_columns(validate.expectations, seen.columns)
        # Where columns are missing, rules on them are left out: that they are missing is said already.
        rules = [*ours["rows"], *tasks["rows"], *validate.expectations]
        rules = [rule for rule in rules if set(columns_named(rule)) <= set(seen.columns)]
        row_findings, row_page = evaluate("rows", seen.table, seen.columns, seen.rows, rules)

        findings = [*column_findings, *row_findings]
        aside = set_aside(row_findings, seen.rows)
        stops = [
            finding.line(seen.rows)
            for finding in findings
            if not finding.success and (finding.expectation.severity == "stop" or not len(finding.rows))
        ]
        stops += too_many(row_findings, aside, validate)
        write_rows(file, seen, row_findings, aside, out, bool(stops))
    scratch.unlink()
    bad = int(aside.sum())
    counts = {"rows": seen.rows, "kept": seen.rows - bad, "quarantined": bad}
    report = {
        **counts,
        "refused": stops,
        "rules": [
            {
                "rule": f.rule,
                "severity": f.expectation.severity,
                "success": f.success,
                "breaches": f.breaches,
                "notes": f.notes,
                "observed": f.observed,
                "examples": f.examples,
            }
            for f in findings
        ],
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    (out / "docs").mkdir()
    for name, page in (
        ("columns", column_page),
        ("rows", row_page),
        ("index", data_docs.index(findings, stops, counts)),
    ):
        (out / "docs" / f"{name}.html").write_text(page, "utf-8")
    if stops:
        told = "\n".join(f"- {stop}" if not stop.startswith(" ") else stop for stop in stops)
        few = f", the first {STOPPED_ROWS} of {bad}" if bad > STOPPED_ROWS else ""
        where = f"Data Docs: {out}/docs/index.html; the rows{few}: {out}/quarantine.parquet"
        raise DataError(f"the data were refused before any training:\n{told}\n{where}")
    repeated = set_aside([finding for finding in row_findings if repeats(finding)], seen.rows)
    if bad:
        why = "; ".join(f"{len(f.rows)}: {f.notes}" for f in row_findings if len(f.rows))
        logging.getLogger("temper").warning(
            "%d of %d rows set aside (%s): quarantine.parquet beside the valid rows", bad, seen.rows, why
        )
    return {
        **counts,
        # Apart, as their limits are: validate.max_quarantined_share and validate.max_duplicate_share.
        "quarantined_share": int((aside & ~repeated).sum()) / seen.rows,
        "duplicate_share": int(repeated.sum()) / seen.rows,
        "rules": len(findings),
        "broken_rules": sum(not finding.success for finding in findings),
    }


def _check_columns(expectations: Sequence[Expectation], known: list[str]) -> None:
    errors = [
        f"validate.expectations.{i}.arguments: there is no column {name!r}"
        f"{_close(name, known) or '; there are ' + ', '.join(known)}"
        for i, rule in enumerate(expectations)
        for name in columns_named(rule)
        if name not in known
    ]
    if errors:
        raise ParamsError(errors)
