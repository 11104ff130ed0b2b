from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import answers, champion, observe, promote
from components.cell import Record
from components.errors import TemperError

OUT = Path("work/champion")


@pytest.fixture
def known(tracked: Path, no_smoke: None, make_build: Callable[..., str], decide: Callable[..., Any]) -> dict[str, Any]:
    decision = decide("base/fp32", make_build("base", "fp32"))
    promote.apply(
        "digits",
        decision,
        Path("work/builds"),
        Path("work/engines"),
        Path("work/predictions"),
        Path("work/matrix"),
        Path("work/data/prepared"),
    )
    OUT.mkdir()
    return observe.champion("digits", None, same_inputs=False)


def run(known: dict[str, Any], prepared: Path) -> dict[str, float]:
    path = Path("champion.json")
    path.write_text(json.dumps(known), "utf-8")
    return champion.run(2, prepared, path, OUT)


def test_answers_the_test_rows(known: dict[str, Any], prepared: Path) -> None:
    metrics = run(known, prepared)
    given = answers.read(OUT)
    assert len(given.labels) == 120 and metrics["version"] == 1
    assert metrics["accuracy"] == given.accuracy()
    assert Record.read(OUT).status == "ok"


def test_one_that_answers_nan_is_not_compared_and_stops_nothing(
    known: dict[str, Any], prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers.ask

    def overflown(*given: Any) -> Any:
        answered = asked(*given)
        answered.logits[3] = np.nan
        return answered

    monkeypatch.setattr(answers, "ask", overflown)
    assert run(known, prepared) == {}
    told = Record.read(OUT)
    assert told.status == "not measured" and "1 of 120 test rows with NaN or infinite logits" in told.reason


def test_none_yet_is_not_measured(known: dict[str, Any], prepared: Path) -> None:
    assert run(observe.NO_CHAMPION, prepared) == {}
    assert Record.read(OUT).status == "not measured" and "no model" in Record.read(OUT).reason


def test_other_classes_are_not_compared(known: dict[str, Any], prepared: Path, tmp_path: Path) -> None:
    other = json.loads((prepared / "spec.json").read_text("utf-8")) | {"classes": [str(i) for i in range(9)]}
    (tmp_path / "spec.json").write_text(json.dumps(other), "utf-8")
    assert run(known, tmp_path) == {}
    assert "other inputs or classes" in Record.read(OUT).reason


def test_changed_or_missing_files_stop_it(known: dict[str, Any], prepared: Path) -> None:
    with pytest.raises(TemperError, match="digest"):
        run(known | {"digest": "0" * 64}, prepared)
    Path(known["source"], "loader.py").write_text("import os", "utf-8")
    with pytest.raises(TemperError, match=r"version 1 of digits: loader\.py is code other than Temper's own"):
        run(known, prepared)
    Path(known["source"]).rename("elsewhere")
    with pytest.raises(TemperError, match="not at"):
        run(known, prepared)
