"""The table in a terminal: every interval stands whole on one line, whatever the width takes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from components.decide import decide
from components.params import Bounds, Policy
from components.report import terminal, words
from tests.components.matrices import EVIL, matrix

NOBODY: dict[str, Any] = {"version": None, "digest": None}
POLICY = Policy(
    metric="accuracy", margin=0.02, batch_size=1, objective="latency_ms", bounds=Bounds(latency_ms=None, size_mb=None)
)


def printed(measured: dict[str, Any], width: int, decision: dict[str, Any] | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal.table(measured, decision, width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return text


def renamed(measured: dict[str, Any], more: str) -> dict[str, Any]:
    """Every cell, and the reference, with a longer variant's name."""
    for cell in measured["cells"]:
        cell["cell"] = f"{more}{cell['cell']}"
    measured["reference"] = f"{more}{measured['reference']}"
    return measured


@pytest.mark.parametrize("width", [200, 120, 100, 80])
@pytest.mark.parametrize("more", ["", "twice_"])
def test_no_interval_is_broken(width: int, more: str) -> None:
    measured = renamed(matrix(), more)
    text = printed(measured, width, decide(measured, POLICY, NOBODY))
    lines = text.splitlines()
    for cell in measured["cells"]:
        if cell["status"] != "ok" or cell["cell"] == measured["reference"]:
            continue
        _, difference = words.accuracy_lines(cell, "")
        _, times = words.speed_lines(cell, "1", "")
        for whole in (difference.splitlines()[0], times[times.index("[") : times.index("]") + 1]):
            assert any(whole in line for line in lines), whole


def test_at_120_columns_nothing_is_left_out_and_the_rest_is_said_at_80() -> None:
    assert "Left out" not in printed(matrix(), 120)
    narrow = printed(matrix(), 80)
    assert "Left out at 80 columns: batch 32, vs eager;" in narrow
    four = matrix() | {"batch_sizes": [1, 8, 32, 128]}
    assert "batch 128" in printed(four, 120)


def test_what_is_on_the_front_chosen_or_not_ok_is_marked() -> None:
    measured = matrix()
    text = printed(measured, 120, decide(measured, POLICY, NOBODY))
    row = {line.split()[0]: line for line in text.splitlines() if "/" in line[:20]}
    for cell in measured["cells"]:
        assert (terminal.FRONT in row[cell["cell"]]) == (cell["dominated_by"] == [])
    assert "★ chosen" in text
    assert "misses margin" in text
    assert "66% in integers" in text
    assert f"(2) parity: {EVIL}" in text  # rich takes no markup from it
    assert "refused (2)" in row["lora/trt_fp16"]


def test_too_narrow_for_anything_is_cut_and_no_error() -> None:
    printed(matrix(), 40)
