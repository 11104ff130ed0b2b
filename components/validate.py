"""Hold raw data against the task's rules and the user's, with Great Expectations, before anything is trained on them.

Rows that break a `quarantine` rule are set aside, with every rule and reason. A broken `stop` rule, or too many
rows set aside, ends the run with all such breaches at once; report.json, docs/ and quarantine.parquet are
written first, so that they can be read then too.
"""

from __future__ import annotations

import difflib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from components import data_docs
from components.errors import DataError, ParamsError
from components.params import Expectation, ImageClassification, Validate
from components.quarantine import REPEATS, Finding, batches, columns_named, set_aside, too_many, write_rows
from components.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

HEAD_ROWS = 1_000  # enough to tell what kind of values a column holds
EXAMPLES = 5
OURS = {"id", "meta", "result_format", "catch_exceptions", "rendered_content", "severity", "windows", "batch_id"}
OURS |= {"row_condition", "condition_parser"}  # code in a string, run by pandas


# --- the rules -------------------------------------------------------------------------------------


def _rule(severity: Literal["stop", "quarantine"], expect: str, notes: str, **arguments: Any) -> Expectation:
    return Expectation(expect=f"expect_{expect}", severity=severity, arguments={**arguments, "notes": notes})


def rules_of_any_task(validate: Validate, key: bool) -> dict[str, list[Expectation]]:
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
    if key:
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


def evaluate(name: str, frame: pd.DataFrame, rules: Sequence[Expectation]) -> tuple[list[Finding], str]:
    """(what came of each rule, the Data Docs page). `name` is what a line of the frame is: rows or columns."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.registry import get_expectation_impl

    # It sets its own level to INFO when imported, and names folders that it never makes.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": frame})
    expectations = [
        get_expectation_impl(rule.expect)(**rule.arguments, meta={"rule": i}) for i, rule in enumerate(rules)
    ]
    line = name.removesuffix("s")
    suite = gx.ExpectationSuite(name=name, expectations=expectations)
    result = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [line]})
    raw = sorted(
        (item.to_json_dict() for item in result.results), key=lambda r: r["expectation_config"]["meta"]["rule"]
    )
    findings = [_finding(rules[i], item, line) for i, item in enumerate(raw)]
    return findings, _page({**result.to_json_dict(), "results": raw})


def _finding(rule: Expectation, result: Mapping[str, Any], line: str) -> Finding:
    columns = columns_named(rule)
    finding = Finding(f"{rule.expect}({', '.join(columns)})", rule, bool(result["success"]))
    if fault := _exception(result):
        finding.observed = f"it could not be computed: {fault}"
        return finding
    found = result["result"]
    if "observed_value" in found:
        finding.observed = f"found {_short(found['observed_value'])}"
    for item in found.get("unexpected_index_list") or []:
        values = [value for name, value in item.items() if name != line] or [item[line]]
        value = _short(values[0] if len(values) == 1 else values)
        if len(finding.examples) < EXAMPLES:
            same = value == _short(item[line])
            finding.examples.append(f"{line} {value}" if same else f"{line} {item[line]}: {value}")
        if line == "row" and not finding.success:
            finding.rows[int(item[line])] = value
    finding.breaches = int(found.get("unexpected_count", 0) or 0)
    return finding


def _exception(result: Mapping[str, Any]) -> str:
    info = result.get("exception_info") or {}
    faults = [info] if "raised_exception" in info else list(info.values())
    return next((str(f["exception_message"]).splitlines()[0] for f in faults if f.get("raised_exception")), "")


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


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


def _null_count(column: pa.ChunkedArray) -> tuple[int, int]:
    """(nulls and NaN, values), through lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.combine_chunks()
    if pa.types.is_nested(array.type) and hasattr(array.type, "value_type") and not pa.types.is_map(array.type):
        missing = array.null_count
        nulls, values = _null_count(pa.chunked_array([pc.list_flatten(array)]))
        return nulls + missing, values + missing
    return int(pc.sum(pc.is_null(array, nan_is_null=True)).as_py() or 0), len(array)


def look(file: pq.ParquetFile, task: ImageClassification) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(columns, rows) as the rules see them; only a batch of the data is in memory at once."""
    import pandas as pd

    member = TASKS[task.kind]
    empty = file.schema_arrow.empty_table()
    columns, parts, start = member.columns(empty, task), [], 0
    counts = {name: np.zeros(2, np.int64) for name in empty.column_names}
    for table in batches(file):
        if not start:
            columns = member.columns(table.slice(0, HEAD_ROWS), task)
        for name in empty.column_names:
            counts[name] += _null_count(table.column(name))
        part = member.features(table, task)
        parts.append(part.assign(row=np.arange(start, start + len(table))))
        start += len(table)
    shares = [counts[name][0] / counts[name][1] if counts[name][1] else 0.0 for name in columns["column"]]
    rows = pd.concat(parts, ignore_index=True) if parts else member.features(empty, task).assign(row=[])
    return columns.assign(null_share=shares), _with_repeats(rows)


def _with_repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds how many earlier rows are the same, how many other labels the same inputs have, and whose key is taken."""
    found = rows.copy()
    if "content" in rows and "label" in rows:
        known = rows[rows["content"].notna() & rows["label"].notna()]
        copies = known.groupby(["content", "label"], sort=False).cumcount()
        others = known.groupby("content", sort=False)["label"].transform("nunique") - 1
        found["earlier_copies"] = copies.reindex(rows.index, fill_value=0).astype("int64")
        found["other_labels"] = others.reindex(rows.index, fill_value=0).astype("int64")
        if "key" in rows:
            distinct = rows[rows["key"].notna()].assign(
                one=rows["content"].fillna("") + "\0" + rows["label"].fillna("")
            )
            clashes = distinct.groupby("key", sort=False)["one"].transform("nunique") - 1
            found["key_clashes"] = clashes.reindex(rows.index, fill_value=0).astype("int64")
    return found.drop(columns="content", errors="ignore")


def run(task: ImageClassification, validate: Validate, raw: Path, out: Path) -> dict[str, float]:
    """data.parquet, quarantine.parquet (with row, rule, reason), report.json, docs/. Raises DataError, ParamsError."""
    import pyarrow.parquet as pq

    for name in ("data.parquet", "quarantine.parquet", "report.json"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "docs", ignore_errors=True)
    check(validate.expectations)
    ours, tasks = rules_of_any_task(validate, task.columns.key is not None), TASKS[task.kind].expectations(task)
    with pq.ParquetFile(raw / "data.parquet") as file:
        columns, rows = look(file, task)
        column_findings, column_page = evaluate("columns", columns, [*tasks["columns"], *ours["columns"]])
        if all(finding.success for finding in column_findings):
            _check_columns(validate.expectations, list(rows.columns))
        # Where columns are missing, rules on them are left out: that they are missing is said already.
        rules = [*ours["rows"], *tasks["rows"], *validate.expectations]
        rules = [rule for rule in rules if set(columns_named(rule)) <= set(rows.columns)]
        row_findings, row_page = evaluate("rows", rows, rules)

        findings = [*column_findings, *row_findings]
        aside = set_aside(row_findings)
        stops = [
            finding.line(len(rows))
            for finding in findings
            if not finding.success and (finding.expectation.severity == "stop" or not finding.rows)
        ]
        stops += too_many(row_findings, aside, len(rows), validate)
        write_rows(file, aside, out, bool(stops))
    counts = {"rows": len(rows), "kept": len(rows) - len(aside), "quarantined": len(aside)}
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
        where = f"Data Docs: {out}/docs/index.html; the rows: {out}/quarantine.parquet"
        raise DataError(f"the data were refused before any training:\n{told}\n{where}")
    repeats = {row for f in row_findings for row in f.rows if set(f.columns) & REPEATS}
    if aside:
        why = "; ".join(f"{len(f.rows)}: {f.notes}" for f in row_findings if f.rows)
        logging.getLogger("temper").warning(
            "%d of %d rows set aside (%s): quarantine.parquet beside the valid rows", len(aside), len(rows), why
        )
    return {
        **counts,
        # Apart, as their limits are: validate.max_quarantined_share and validate.max_duplicate_share.
        "quarantined_share": len(set(aside) - repeats) / len(rows),
        "duplicate_share": len(repeats) / len(rows),
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
