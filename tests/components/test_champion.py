from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import answers, champion, observe, prepare, promote
from components.cell import Record
from components.data import Placing
from components.digests import digests
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


WHOLE = Placing(key=None, declared=[], shares=[0.6, 0.1, 0.1, 0.2])


def placing(**changes: Any) -> Placing:
    return WHOLE.model_copy(update=changes)


@pytest.mark.parametrize(
    ("now", "then", "share"),
    [
        (WHOLE, WHOLE, 0.0),
        (placing(shares=[0.7, 0.1, 0.1, 0.1]), WHOLE, 0.0),  # what is test now was test then
        (placing(shares=[0.3, 0.1, 0.1, 0.5]), WHOLE, 0.2),  # a fifth of the upper half lies below 0.6
        (WHOLE, placing(shares=[0.9, 0.0, 0.0, 0.1]), 0.5),
        (placing(declared=["test"], shares=[0.8, 0.1, 0.1, 0.0]), WHOLE, 0.6),
        (placing(declared=["test"]), placing(declared=["test", "validation"]), 0.0),
        (placing(key="id"), WHOLE, None),
    ],
)
def test_how_many_of_its_training_rows_it_is_asked(now: Placing, then: Placing, share: float | None) -> None:
    assert champion.trained_on(now, then) == share


@given(*[st.lists(st.integers(1, 20), min_size=4, max_size=4).map(lambda n: [i / sum(n) for i in n])] * 2)
def test_that_share_is_the_one_among_rows_as_prepare_puts_them(now: list[float], then: list[float]) -> None:
    ids = digests(map(str, range(4000)))
    sides = {"now": prepare.sides(ids, now), "then": prepare.sides(ids, then)}
    test = sides["now"] == 3
    told = champion.trained_on(placing(shares=now), placing(shares=then))
    deviation = 0.5 / np.sqrt(max(test.sum(), 1))
    assert told is not None and abs((sides["then"][test] == 0).mean() - told) < 5 * deviation


def test_rows_split_in_another_way_are_told(known: dict[str, Any], prepared: Path, tmp_path: Path) -> None:
    run(known, prepared)
    assert Record.read(OUT).figures["trained_on_share"] == 0.0
    again = tmp_path / "again"
    shutil.copytree(prepared, again)
    told = json.loads((prepared / "spec.json").read_text("utf-8"))
    told["placing"]["key"] = "another"
    (again / "spec.json").write_text(json.dumps(told), "utf-8")
    assert set(run(known, again)) == {"version", "accuracy", "rows"}
    assert Record.read(OUT).figures["trained_on_share"] is None
    del told["placing"]  # as of data prepared before it was written down
    (again / "spec.json").write_text(json.dumps(told), "utf-8")
    run(known, again)
    assert "trained_on_share" not in Record.read(OUT).figures, "no zero that nobody found"


def test_changed_or_missing_files_stop_it(known: dict[str, Any], prepared: Path) -> None:
    with pytest.raises(TemperError, match="digest"):
        run(known | {"digest": "0" * 64}, prepared)
    Path(known["source"], "loader.py").write_text("import os", "utf-8")
    with pytest.raises(TemperError, match=r"version 1 of digits: loader\.py is code other than Temper's own"):
        run(known, prepared)
    Path(known["source"]).rename("elsewhere")
    with pytest.raises(TemperError, match="not at"):
        run(known, prepared)
