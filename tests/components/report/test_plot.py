"""The plot's geometry: everything lies inside, in order, and names do not lie on each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.report import plot
from tests.components.matrices import matrix


def test_points_and_intervals_lie_where_their_figures_say() -> None:
    measured = matrix()
    drawn = plot.drawing(measured, {"winner": {"cell": "compact/fp32"}, "policy": {"bounds": {"latency_ms": 0.5}}})
    assert drawn is not None
    left, top, right, bottom = drawn["inside"]
    points = {point["cell"]: point for point in drawn["points"]}
    cells = {cell["cell"]: cell for cell in measured["cells"] if cell["status"] == "ok"}
    assert points.keys() == cells.keys()
    by_latency = sorted(points, key=lambda cell: cells[cell]["latency_ms"]["1"])
    assert by_latency == sorted(points, key=lambda cell: (points[cell]["x"], cells[cell]["latency_ms"]["1"]))
    for cell, point in points.items():
        assert left <= point["x"] <= right and top <= point["y"] <= bottom
        assert point["front"] == (cell in measured["front"])
        if cell == measured["reference"]:
            assert point["across"] is None
        else:
            assert point["across"][0] <= point["x"] <= point["across"][1]
            assert point["up"][1] <= point["y"] <= point["up"][0]
    assert [cell for cell, point in points.items() if point["chosen"]] == ["compact/fp32"]
    assert left < drawn["bound"] < right
    assert top < drawn["floor"]["at"] < bottom
    names = {label["text"] for label in drawn["labels"]}
    assert names == {*measured["front"], "base/fp32 (reference)"}


@pytest.mark.parametrize("corner", range(4))
def test_the_words_of_a_line_go_where_nothing_is(corner: int) -> None:
    inside, width = (0.0, 0.0, 400.0, 200.0), plot.LETTER * 4
    above_right, above_left = (396.0 - width, 80.0, 396.0, 98.0), (4.0, 80.0, 4 + width, 98.0)
    boxes = [above_right, (above_right[0], 102.0, 396.0, 120.0), above_left, (4.0, 102.0, 4 + width, 120.0)]
    taken = [box for number, box in enumerate(boxes) if number != corner]
    found = plot.along("text", 100.0, taken, inside)
    assert (found["anchor"], found["y"] > 100) == (("end", "start")[corner // 2], corner % 2 == 1)
    assert all(plot.overlap(taken[-1], box) == 0 for box in taken[:-1])


def test_nothing_measured_is_no_plot() -> None:
    measured = matrix()
    measured["cells"] = measured["cells"][15:]
    assert plot.drawing(measured, {}) is None


@pytest.mark.parametrize("one", [True, False])
def test_cells_that_are_alike_or_alone_still_have_axes(one: bool) -> None:
    measured = matrix()
    measured["cells"] = (
        [measured["cells"][0]] if one else [{**measured["cells"][0], "cell": f"v{n}/t"} for n in range(3)]
    )
    drawn = plot.drawing(measured, {})
    assert drawn is not None
    assert drawn["x_ticks"] and drawn["y_ticks"]


@given(st.floats(1e-4, 1e4), st.floats(1.0001, 1e5), st.booleans())
def test_an_axis_keeps_order_and_has_ticks(low: float, ratio: float, log: bool) -> None:
    axis = plot.Axis(low, low * ratio, 0, 100, log and ratio > 4)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 20
    places = [axis(tick) for tick in ticks]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)


def test_names_find_room_of_their_own() -> None:
    taken: list[plot.Box] = []
    inside = (0.0, 0.0, 700.0, 400.0)
    labels = [plot.label("a_cell/of_some_length", 350, 200, 5, taken, inside) for _ in range(6)]
    assert len({(label["x"], label["y"]) for label in labels}) == 6
    assert sum(plot.overlap(a, b) for i, a in enumerate(taken) for b in taken[:i]) < plot.LINE
