"""CSV: every cell and figure, and no text that a spreadsheet would run."""

from __future__ import annotations

import csv as reader
from pathlib import Path
from typing import Any

import pytest

from components.report import csv, markdown
from tests.components.matrices import EVIL, matrix


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(reader.DictReader(file))


def test_every_cell_has_its_figures_or_none(tmp_path: Path) -> None:
    measured = matrix()
    csv.write_matrix(measured, tmp_path / "matrix.csv")
    found = rows(tmp_path / "matrix.csv")
    assert [row["cell"] for row in found] == [cell["cell"] for cell in measured["cells"]]
    for row, cell in zip(found, measured["cells"], strict=True):
        if cell["status"] == "ok":
            assert float(row["speedup_32_low"]) == cell["speedup"]["32"][1]
            assert float(row["p99_ms_1"]) == cell["latency"]["1"]["p99_ms"]
            assert (int(row["rows"]), row["sha256"]) == (360, cell["sha256"])
            assert row["on_front"] == str(cell["cell"] in measured["front"]).lower()
            assert row["dominated_by"].split() == cell["dominated_by"]
        else:
            assert row["reason"] == cell["reason"]
            assert not any(row[key] for key in ("accuracy", "latency_ms", "sha256", "rows", "on_front"))


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    csv.write_measured(matrix(), tmp_path / "measured.csv")
    found = rows(tmp_path / "measured.csv")
    assert len(found) == 15
    assert all(float(row["latency_ms"]) > 0 for row in found)


@pytest.mark.hardening("E29", "formulas in matrix.csv")
@pytest.mark.parametrize(
    ("text", "written"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-x", "'-x"), ("-1", "-1"), ("+0.5", "+0.5"), ("cat", "cat"), (-1.5, -1.5)],
)
def test_no_text_is_a_formula(text: Any, written: Any, tmp_path: Path) -> None:
    assert csv.safe(text) == written
    csv.write_confusion([(str(text), "b")], tmp_path / "confusion.csv")
    assert rows(tmp_path / "confusion.csv") == [{"actual": str(written), "predicted": "b"}]


@pytest.mark.hardening("E29", "markup in matrix.md")
def test_markdown_has_every_cell_and_no_markup_of_the_data() -> None:
    measured = matrix()
    page = markdown.page(measured)
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(measured["cells"])
    columns = {line.replace("\\|", "").count("|") for line in table}
    assert len(columns) == 1
    for cell in measured["cells"]:
        assert f"`{cell['cell']}`" in page
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\[bold\\] \\| x" in page
    assert measured["data_sha256"] in page
