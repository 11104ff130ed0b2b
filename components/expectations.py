"""Hold a table against rules with Great Expectations: what came of each, and its Data Docs page."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from components import data_docs
from components.params import Expectation
from components.quarantine import Finding, columns_named, short, value_of

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLES = 5
COLLECT_ROWS = 100_000  # fewer are not worth the 0.2 s
RESULT = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


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
