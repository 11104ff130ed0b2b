"""Hold raw data against the task's rules and the user's, with Great Expectations, before anything is trained on them.

Rows that break a `quarantine` rule are set aside, with every rule and reason. A broken `stop` rule, or too many
rows set aside, ends the run with all such breaches at once; report.json, docs/ and quarantine.parquet are
written first, so that they can be read then too.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from components import data_docs, rules
from components.batches import batches, open_parquet
from components.errors import DataError
from components.expectations import evaluate
from components.params import Task, Validate
from components.quarantine import STOPPED_ROWS, columns_named, repeats, set_aside, too_many, write_rows
from components.schemas import SCHEMAS
from components.seen import look

HEAD_ROWS = 1_000  # enough to tell what kind of values a column holds


def run(task: Task, validate: Validate, raw: Path, out: Path) -> dict[str, float]:
    """data.parquet, quarantine.parquet (with row, rule, reason), report.json, docs/. Raises DataError, ParamsError."""
    import pyarrow as pa

    for name in ("features.parquet", "data.parquet", "quarantine.parquet", "report.json"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "docs", ignore_errors=True)
    rules.check(validate.expectations)
    ours, tasks = rules.of_any_task(validate, task.columns), SCHEMAS[task.kind].expectations(task)
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
            rules.check_columns(validate.expectations, seen.columns)
        # Where columns are missing, rules on them are left out: that they are missing is said already.
        row_rules = [*ours["rows"], *tasks["rows"], *validate.expectations]
        row_rules = [rule for rule in row_rules if set(columns_named(rule)) <= set(seen.columns)]
        row_findings, row_page = evaluate("rows", seen.table, seen.columns, seen.rows, row_rules)

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
