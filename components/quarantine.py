"""What came of the rules on raw data, and what follows: which rows are set aside, and whether that is too many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.batches import batches
from components.params import Expectation, Validate
from components.seen import Seen

if TYPE_CHECKING:
    import pyarrow.parquet as pq

STOPPED_ROWS = 10_000  # in quarantine.parquet of data that are refused
REPEATS = {"earlier_copies", "other_labels", "held_out_copies"}  # columns of the rules that max_duplicate_share bounds


@dataclass
class Finding:
    """One rule and what came of it; `rows` are those that break it, if it is a rule on rows."""

    rule: str
    expectation: Expectation
    success: bool
    observed: str = ""
    breaches: int = 0
    examples: list[str] = field(default_factory=list)
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))  # their numbers, rising

    @property
    def columns(self) -> list[str]:
        return columns_named(self.expectation)

    @property
    def notes(self) -> str:
        return str(self.expectation.arguments.get("notes") or "the expectation is not met")

    def line(self, rows: int) -> str:
        what = f"{self.rule}: {self.notes}"
        if len(self.rows):
            return f"{what}; {self.breaches} of {rows} rows, such as {', '.join(self.examples)}"
        if self.examples:
            return f"{what}; {self.breaches} found: {', '.join(self.examples)}"
        return f"{what}; {self.observed}"


def columns_named(rule: Expectation) -> list[str]:
    """The columns that a rule's arguments name."""
    named = [rule.arguments.get(name) for name in ("column", "column_A", "column_B")]
    several = rule.arguments.get("column_list") or []
    return [name for name in [*named, *several] if isinstance(name, str)]


def short(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def value_of(line: Mapping[str, Any]) -> str:
    """The values of a rule's columns in one row, as they are told."""
    values = list(line.values())
    return short(values[0] if len(values) == 1 else values)


def set_aside(findings: Sequence[Finding], rows: int) -> np.ndarray:
    """Which rows break a quarantine rule."""
    aside = np.zeros(rows, bool)
    for finding in _breaches(findings):
        aside[finding.rows] = True
    return aside


def repeats(finding: Finding) -> bool:
    return any(name in REPEATS for name in finding.columns)


def _breaches(findings: Sequence[Finding]) -> list[Finding]:
    return [f for f in findings if f.expectation.severity == "quarantine" and not f.success and len(f.rows)]


def too_many(findings: Sequence[Finding], aside: np.ndarray, validate: Validate) -> Iterator[str]:
    rows, broken = len(aside), _breaches(findings)
    bounds = (
        ("max_quarantined_share", validate.max_quarantined_share, [f for f in broken if not repeats(f)]),
        ("max_duplicate_share", validate.max_duplicate_share, [f for f in broken if repeats(f)]),
    )
    for name, bound, concerned in bounds:
        count = int(set_aside(concerned, rows).sum())
        if count > bound * rows:
            yield f"validate.{name}: {count} of {rows} rows ({count / rows:.1%}) break rules, {bound:.1%} may"
            yield from (f"  {finding.line(rows)}" for finding in concerned)
    kept = rows - int(aside.sum())
    if 0 < kept < validate.min_rows <= rows:
        yield f"validate.min_rows: {kept} rows are left of {rows}, {validate.min_rows} are needed"


def write_rows(
    file: pq.ParquetFile, seen: Seen, findings: Sequence[Finding], aside: np.ndarray, out: Path, stopped: bool
) -> None:
    """quarantine.parquet, and data.parquet unless the run stops: then the first STOPPED_ROWS set aside must do."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = file.schema_arrow.remove_metadata()
    texts = [pa.field("row", pa.int64()), pa.field("rule", pa.string()), pa.field("reason", pa.string())]
    bad_rows = pq.ParquetWriter(out / "quarantine.parquet", pa.schema([*schema, *texts]), compression="zstd")
    kept = None if stopped else pq.ParquetWriter(out / "data.parquet", schema, compression="zstd")
    start, left, broken = 0, STOPPED_ROWS if stopped else len(aside), _breaches(findings)
    with bad_rows, kept or contextlib.nullcontext():
        for i, table in enumerate(batches(file)):
            bad = np.flatnonzero(aside[start : start + len(table)])[:left]
            if len(bad):
                told = _reasons(seen, i, start, bad, broken)
                columns = [pa.array(bad + start), *(pa.array(text, pa.string()) for text in told)]
                bad_rows.write_table(
                    pa.table([*table.take(bad).columns, *columns], schema=pa.schema([*schema, *texts]))
                )
                left -= len(bad)
            if kept:
                kept.write_table(table.filter(pa.array(~aside[start : start + len(table)])))
            start += len(table)


def _reasons(seen: Seen, batch: int, start: int, bad: np.ndarray, broken: Sequence[Finding]) -> tuple[list[str], ...]:
    """For each of these rows of a batch: every rule that it breaks, and why."""
    rules: list[list[str]] = [[] for _ in bad]
    reasons: list[list[str]] = [[] for _ in bad]
    for finding in broken:
        first, last = np.searchsorted(finding.rows, [start + bad[0], start + bad[-1] + 1])
        here = finding.rows[first:last].astype(np.int64) - start
        lines = seen.batch(batch, finding.columns).take(here).to_pylist()
        for at, line in zip(np.searchsorted(bad, here), lines, strict=True):
            rules[at].append(finding.rule)
            reasons[at].append(f"{finding.notes} ({', '.join(finding.columns)} is {value_of(line)})")
    return ["; ".join(told) for told in rules], ["; ".join(told) for told in reasons]
