"""What came of the rules on raw data, and what follows: which rows are set aside, and whether that is too many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.params import Expectation, Validate

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_BYTES = 4 << 20  # as stored; a byte a pixel becomes several arrays of eight
REPEATS = {"earlier_copies", "other_labels"}  # columns of the rules that max_duplicate_share bounds


@dataclass
class Finding:
    """One rule and what came of it; `rows` are those that break it, if it is a rule on rows."""

    rule: str
    expectation: Expectation
    success: bool
    observed: str = ""
    breaches: int = 0
    examples: list[str] = field(default_factory=list)
    rows: dict[int, str] = field(default_factory=dict)  # row number: its value

    @property
    def columns(self) -> list[str]:
        return columns_named(self.expectation)

    @property
    def notes(self) -> str:
        return str(self.expectation.arguments.get("notes") or "the expectation is not met")

    def line(self, rows: int) -> str:
        what = f"{self.rule}: {self.notes}"
        if self.rows:
            return f"{what}; {self.breaches} of {rows} rows, such as {', '.join(self.examples)}"
        if self.examples:
            return f"{what}; {self.breaches} found: {', '.join(self.examples)}"
        return f"{what}; {self.observed}"


def columns_named(rule: Expectation) -> list[str]:
    """The columns that a rule's arguments name."""
    named = [rule.arguments.get(name) for name in ("column", "column_A", "column_B")]
    several = rule.arguments.get("column_list") or []
    return [name for name in [*named, *several] if isinstance(name, str)]


def batches(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """The rows in order, a bounded number in memory at once."""
    import pyarrow as pa

    groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    rows = BATCH_BYTES * max(file.metadata.num_rows, 1) // max(sum(groups), 1)
    for batch in file.iter_batches(min(max(rows, 256), 65_536)):
        yield pa.Table.from_batches([batch])


def set_aside(findings: Sequence[Finding]) -> dict[int, list[tuple[str, str]]]:
    """For each row that breaks a quarantine rule: every rule it breaks, and why."""
    reasons: dict[int, list[tuple[str, str]]] = {}
    for finding in findings:
        if finding.expectation.severity == "quarantine" and not finding.success:
            for row, value in finding.rows.items():
                reason = f"{finding.notes} ({', '.join(finding.columns)} is {value})"
                reasons.setdefault(row, []).append((finding.rule, reason))
    return dict(sorted(reasons.items()))


def too_many(findings: Sequence[Finding], aside: Mapping[int, Any], rows: int, validate: Validate) -> Iterator[str]:
    def repeat(finding: Finding) -> bool:
        return any(name in REPEATS for name in finding.columns)

    broken = [f for f in findings if f.rows and f.expectation.severity == "quarantine" and not f.success]
    bounds = (
        ("max_quarantined_share", validate.max_quarantined_share, [f for f in broken if not repeat(f)]),
        ("max_duplicate_share", validate.max_duplicate_share, [f for f in broken if repeat(f)]),
    )
    for name, bound, concerned in bounds:
        count = len({row for finding in concerned for row in finding.rows})
        if count > bound * rows:
            yield f"validate.{name}: {count} of {rows} rows ({count / rows:.1%}) break rules, {bound:.1%} may"
            yield from (f"  {finding.line(rows)}" for finding in concerned)
    if 0 < rows - len(aside) < validate.min_rows <= rows:
        yield f"validate.min_rows: {rows - len(aside)} rows are left of {rows}, {validate.min_rows} are needed"


def write_rows(file: pq.ParquetFile, aside: Mapping[int, list[tuple[str, str]]], out: Path, stopped: bool) -> None:
    """quarantine.parquet, and data.parquet unless the run stops."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = file.schema_arrow.remove_metadata()
    texts = [pa.field("row", pa.int64()), pa.field("rule", pa.string()), pa.field("reason", pa.string())]
    set_aside = pq.ParquetWriter(out / "quarantine.parquet", pa.schema([*schema, *texts]), compression="zstd")
    kept = None if stopped else pq.ParquetWriter(out / "data.parquet", schema, compression="zstd")
    start = 0
    with set_aside:
        for table in batches(file):
            rows = [row for row in range(start, start + len(table)) if row in aside]
            if rows:
                bad = table.take([row - start for row in rows])
                bad = bad.append_column(texts[0], pa.array(rows, pa.int64()))
                for i in (0, 1):
                    told = ["; ".join(reason[i] for reason in aside[row]) for row in rows]
                    bad = bad.append_column(texts[i + 1], pa.array(told, pa.string()))
                set_aside.write_table(bad)
            if kept:
                keep = np.ones(len(table), bool)
                keep[[row - start for row in rows]] = False
                kept.write_table(table.filter(pa.array(keep)))
            start += len(table)
    if kept:
        kept.close()
