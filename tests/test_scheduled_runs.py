"""The demonstration of benchmarks/scheduled_runs.py, whole: every step must come out as it says it should."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.hardening("J57", "data that grow, get worse, break")
def test_growing_digits_are_promoted_and_what_is_worse_or_broken_is_not(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import scheduled_runs
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    steps = scheduled_runs.demonstrate(tmp_path / "ws")
    wrong = [(step.what, step.got) for step in steps if not step.right]
    assert not wrong
    champions = {step.what.removeprefix("scheduled: "): step.champion for step in steps}
    assert champions["the first rows"] == 1
    assert [champions[what] for what in ("more rows", "nothing new", "wrong labels", "no digits")] == [2, 2, 2, 2]
