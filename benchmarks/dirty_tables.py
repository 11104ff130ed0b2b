"""How many known wrong cells of real tables do rules find, and how many right ones do they accuse?

`python benchmarks/dirty_tables.py [--data FOLDER]` holds three tables against dirty_tables/<name>.yaml, by the code of
stage validate: each rule is Great Expectations', each row that breaks one is set aside with its reasons. Where there is
a clean twin, a cell is wrong if it differs from it, and accused if a rule that names its column breaks in its row.
An empty cell is a missing value, as the csv source reads it. Writes results/dirty_tables.json and .md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import results

from components import params, quarantine, rules
from components.batches import open_parquet
from components.expectations import evaluate
from components.params import Expectation
from components.seen import Seen

if TYPE_CHECKING:
    import pyarrow as pa

RULES = Path(__file__).with_suffix("")
DATA = ROOT.parent / "shared/data"
TABLES = {
    "beers": ("beers_dirty", "beers_clean"),
    "hospital": ("hospital_dirty", "hospital_clean"),
    "titanic": ("titanic_raw", None),
}
NOTES = (
    "The rules are general ones of the domain (formats, sets, lengths), not lists of wrong cells; they are in "
    "benchmarks/dirty_tables/ as examples of validate.expectations. Who wrote them had seen both tables, so this is "
    "what such rules can find, not how well rules do on a table that nobody has looked at.",
    "wrong: cells that differ from the clean twin; caught: those of them that a rule accuses; accused: right cells "
    "that one accuses. Of titanic there is no clean twin: empty is what is known to be missing.",
    "What is missed is spelling in free text: a rule on one cell cannot know how a hospital or a street is written.",
)


def rules_of(name: str) -> list[Expectation]:
    """The rules of a table, checked as those of params.yaml are."""
    found = [Expectation.model_validate(rule) for rule in params.read(RULES / f"{name}.yaml")["expectations"]]
    rules.check(found)
    return found


def read(path: Path) -> pa.Table:
    """A table of texts; the empty ones are null."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = [pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column) for column in table.columns]
    return pa.table(columns, table.column_names)


def held(table: pa.Table, wanted: Sequence[Expectation], out: Path) -> list[quarantine.Finding]:
    """What came of each rule; rows set aside are written to quarantine.parquet in `out`, with rules and reasons."""
    import pyarrow.parquet as pq

    names = table.column_names
    pq.write_table(table, out / "raw.parquet", row_group_size=len(table))
    findings, _ = evaluate("rows", table.select, names, len(table), wanted)
    seen = Seen(out / "raw.parquet", len(table), names, {}, {})
    with open_parquet(out / "raw.parquet") as file:
        quarantine.write_rows(file, seen, findings, quarantine.set_aside(findings, len(table)), out, False)
    return findings


def accused(findings: Sequence[quarantine.Finding], rows: int) -> dict[str, np.ndarray]:
    """Of each column that a rule names, which rows it accuses."""
    found: dict[str, np.ndarray] = {}
    for finding in findings:
        for column in finding.columns:
            found.setdefault(column, np.zeros(rows, bool))[finding.rows] = True
    return found


def lines_of(name: str, data: Path, out: Path) -> list[dict[str, Any]]:
    """A line a column: rules, wrong, caught, right, accused, empty."""
    dirty, clean = TABLES[name]
    table = read(data / f"{dirty}.parquet")
    wanted = rules_of(name)
    found = accused(held(table, wanted, out), len(table))
    truth = read(data / f"{clean}.parquet") if clean else None
    lines = []
    for column in table.column_names:
        values = np.array(table.column(column).to_pylist(), object)
        hit = found.get(column, np.zeros(len(table), bool))
        line: dict[str, Any] = {"table": name, "column": column}
        line["rules"] = sum(column in quarantine.columns_named(rule) for rule in wanted)
        if truth is None:
            line |= {"wrong": "unknown", "caught": "", "right": "", "accused": int(hit.sum())}
        else:
            wrong = values != np.array(truth.column(column).to_pylist(), object)
            line |= {"wrong": int(wrong.sum()), "caught": int((wrong & hit).sum())}
            line |= {"right": int((~wrong).sum()), "accused": int((~wrong & hit).sum())}
        lines.append({**line, "empty": int(table.column(column).null_count)})
    whole: dict[str, Any] = {"table": name, "column": "all", "rules": len(wanted)}
    for key in ("wrong", "caught", "right", "accused", "empty"):
        counts = [line[key] for line in lines]
        whole[key] = sum(counts) if all(isinstance(count, int) for count in counts) else counts[0]
    return [*lines, whole]


def measure(data: Path) -> list[dict[str, Any]]:
    lines = []
    for name in TABLES:
        with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
            lines += lines_of(name, data, Path(scratch))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the tables as Parquet")
    parser.add_argument("--out", type=Path, default=results.FOLDER)
    given = parser.parse_args()
    title = "Wrong cells of real tables: caught, missed, and right ones accused"
    print(results.write("dirty_tables", title, measure(given.data), NOTES, given.out))


if __name__ == "__main__":
    main()
