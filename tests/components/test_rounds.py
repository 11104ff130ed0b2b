"""What is read back is what was timed, and a file that is not is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import rounds, timing
from components.errors import TemperError

HOST = {"machine": "x86_64 test", "cores": 2, "driver": "1"}


def turns(cells: tuple[str, ...] = ("base/fp32", "control", "eager"), calls: int = 30) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {cell: {size: list(rng.lognormal(-9, 0.1, (7, calls))) for size in (1, 32)} for cell in cells}


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = turns()
    rounds.write(written, tmp_path)
    read = rounds.read(tmp_path)
    assert read.keys() == written.keys()
    for cell, by_size in written.items():
        for size, by_round in by_size.items():
            assert np.allclose(read[cell][size], by_round, rtol=0, atol=1e-9)


def test_a_call_takes_about_two_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rounds.write({f"v{i}/fp32": {1: list(3e-4 * rng.lognormal(0, 0.05, (40, 100)))} for i in range(15)}, tmp_path)
    assert (tmp_path / rounds.FILE).stat().st_size < 2.5 * 15 * 40 * 100


@given(st.lists(st.integers(1_000, 10**9), min_size=1, max_size=400), st.integers(1, 5))
def test_quantiles_are_of_single_calls_and_only_where_there_are_enough(nanoseconds: list[int], turns: int) -> None:
    by_round = np.array_split(np.array(nanoseconds) / 1e9, min(turns, len(nanoseconds)))
    found = rounds.latency(by_round, 8)
    assert found["calls"] == len(nanoseconds)
    assert (found["p95_ms"] is not None) == (len(nanoseconds) >= 20)
    assert (found["p99_ms"] is not None) == (len(nanoseconds) >= 100)
    for key, share in (("p95_ms", 0.95), ("p99_ms", 0.99)):
        if found[key] is not None:
            assert found[key] == pytest.approx(np.quantile(nanoseconds, share) / 1e6)


def test_rows_a_second_by_hand() -> None:
    found = rounds.latency([np.array([0.1, 0.3]), np.array([0.2, 0.2]), np.array([9.0, 0.2])], 8)
    assert found["rows_per_s"] == pytest.approx(8 / 0.2)  # a burst in one round does not move it
    assert found["p50_ms"] == pytest.approx(200)


def test_an_interrupted_call_does_not_move_its_round() -> None:
    found = rounds.medians({"base/fp32": {1: [np.array([0.1, 0.1, 5.0]), np.array([0.3, 0.2, 0.1])]}})
    assert found["base/fp32"][1].tolist() == [0.1, 0.2]


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"cell": ["base/fp32"], "seconds": [0.1]}), path)


def without(path: Path, cell: str, number: int) -> None:
    lines = [line for line in pq.read_table(path).to_pylist() if (line["cell"], line["round"]) != (cell, number)]
    pq.write_table(pa.Table.from_pylist(lines, pq.read_schema(path)), path)


def changed(path: Path, change: dict[str, Any]) -> None:
    lines = [{**line, **change} for line in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(lines, pq.read_schema(path)), path)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda path: path.unlink(), "no record of timed rounds"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "no record of timed rounds"),
        (lambda path: path.write_bytes(b""), "no record of timed rounds"),
        (other_columns, "no record of timed rounds"),
        (lambda path: without(path, "control", 3), "missing for control"),
        (lambda path: changed(path, {"round": 0}), "there twice"),
        (lambda path: changed(path, {"nanoseconds": []}), "no calls"),
        (lambda path: changed(path, {"nanoseconds": [-1]}), "took no time"),
    ],
)
def test_a_broken_file_is_refused_by_name(break_it: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    rounds.write(turns(), tmp_path)
    break_it(tmp_path / rounds.FILE)
    with pytest.raises(TemperError, match=words) as caught:
        rounds.read(tmp_path)
    assert rounds.FILE in str(caught.value) and "dvc repro -f -s benchmark" in str(caught.value)


def write_benchmark(folder: Path, host: dict[str, Any]) -> None:
    rounds.write(turns(), folder)
    cells = {"base/fp32": {"status": "ok", "batch_sizes": [1, 32]}, "base/int8": {"status": "refused"}}
    (folder / "cells.json").write_text(json.dumps(cells), "utf-8")
    machine = {"host": host, "threads": 2, "processors": [0, 1], "tokens": None}
    machine["energy"] = {"counter": None, "reason": "none"}
    (folder / "machine.json").write_text(json.dumps(machine), "utf-8")


def cut(path: Path) -> None:
    path.write_text(path.read_text("utf-8")[:-5], "utf-8")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: None, "cells.json: says nothing of lora/fp32"),
        (lambda folder: rounds.write(turns(("base/fp32", "old/fp32")), folder), "times old/fp32"),
        (lambda folder: rounds.write(turns(("control",)), folder), r"times base/fp32 at batch \[\]"),
        (lambda folder: cut(folder / "cells.json"), "cells.json: cannot be read"),
        (lambda folder: (folder / "machine.json").write_text("[]", "utf-8"), "machine.json: must be a mapping"),
        (lambda folder: (folder / "machine.json").unlink(), "machine.json: cannot be read"),
        (lambda folder: (folder / "machine.json").write_text("{}", "utf-8"), "does not say energy, host"),
        (lambda folder: write_benchmark(folder, {"cores": 8}), "another machine .cores 8, here 2."),
    ],
)
def test_timings_of_something_else_are_refused_by_name(
    break_it: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    write_benchmark(tmp_path, {"machine": "x86_64 test", "cores": 2})
    assert timing.read(tmp_path, ["base/fp32", "base/int8"], {**HOST, "driver": "2"})  # a driver is not asked for here
    break_it(tmp_path)
    cells = ["base/fp32", "base/int8"] + (["lora/fp32"] if "lora" in words else [])
    with pytest.raises(TemperError, match=words) as caught:
        timing.read(tmp_path, cells, HOST)
    assert "dvc repro -f -s benchmark" in str(caught.value)
