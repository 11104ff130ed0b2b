"""Evaluate, benchmark and compare over a small workspace: linear builds on real digits, two of them not ok."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from components import answers, assemble, benchmark, compare, evaluate, host, params, runtime, timing
from components.cell import Record
from components.data import Spec
from components.decide import decide
from components.errors import TemperError
from components.report import terminal
from tests.components.test_answers import damage

HOST = {"machine": "test", "isa": [], "cores": 2, "gpu": None, "driver": None, "providers": ["cpu"]}
HOST |= dict.fromkeys(host.LIBRARIES)
EVIL = "<script>alert(1)</script> [bold]"
Workspace = tuple[params.Params, Path]


@pytest.fixture
def measured(
    workspace: Path, make_build: Callable[..., str], prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """Variants base and small; base/int8_dynamic is refused, small/fp32 failed, TensorRT is not measured."""
    loaded = params.load(Path("params.yaml"))
    variants = {"base": loaded.variants["base"], "small": loaded.variants["pruned"]}
    fast = loaded.benchmark.model_copy(
        update={"rounds": 7, "max_rounds": 7, "warmup": 1, "seconds_per_round": 0.002, "loads": 1}
    )
    compared = loaded.compare.model_copy(update={"resamples": 200})
    loaded = loaded.model_copy(update={"variants": variants, "benchmark": fast, "compare": compared})
    shutil.copytree(prepared, "work/data/prepared")
    mlp = params.Mlp(family="mlp", hidden=[4], dropout=0.0)
    parity = {"agreement": 1.0, "max_logit_difference": 0.1, "kl": 0.01, "grid": []}
    for variant, scale in (("base", 1.0), ("small", -1.0)):
        Record("ok", figures={"parity": parity | {"kl": 0.0}, "multiply_adds": 640}).write(
            Path("work/builds", variant, "export")
        )
        assemble.save(assemble.create(mlp, Spec.read(prepared)), Path("work/models", variant))
        for target, settings in loaded.targets.items():
            if runtime.runtime_of(settings).DEVICE:
                Record("not measured", "no CUDA device").write(Path("work/engines", variant, target))
            else:
                figures = {"bytes": 1, "digest": make_build(variant, target, scale), "parity": parity}
                Record("ok", figures=figures).write(Path("work/builds", variant, target))
    Record("refused", f"parity: {EVIL}").write(Path("work/builds/base/int8_dynamic"))
    Record("failed", "RuntimeError: planted").write(Path("work/builds/small/fp32"))
    Record("not measured", "no model is registered as champion yet").write(Path("work/champion"))
    Path("work/host.json").write_text(json.dumps(HOST), "utf-8")
    monkeypatch.setattr(host, "describe", lambda: HOST)
    return loaded, Path("work")


def run_evaluate(loaded: params.Params, work: Path, variant: str, previous: Path | None = None) -> dict[str, Any]:
    out = work / "predictions" / variant
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    data, builds, engines = work / "data/prepared", work / "builds" / variant, work / "engines" / variant
    return evaluate.run(loaded.targets, 1, data, builds, engines, work / "host.json", out, previous)


def run_benchmark(loaded: params.Params, work: Path) -> dict[str, Any]:
    (work / "benchmark").mkdir(exist_ok=True)
    where = [work / name for name in ("data/prepared", "models", "builds", "engines", "benchmark")]
    return benchmark.run(loaded.variants, loaded.targets, loaded.benchmark, 1, *where)


def run_compare(loaded: params.Params, work: Path, out: str = "matrix") -> tuple[dict[str, Any], list[Any]]:
    (work / out).mkdir(exist_ok=True)
    tracked: list[Any] = []
    places = ("data/prepared", "models", "builds", "engines", "predictions", "champion", "benchmark", "host.json", out)
    compare.run(
        loaded.name,
        loaded.variants,
        loaded.targets,
        loaded.compare,
        loaded.policy,
        0,
        *(work / place for place in places),
        cell=lambda *line: tracked.append(line),
    )
    return json.loads((work / out / "matrix.json").read_text("utf-8")), tracked


def test_a_row_has_the_certificate_of_its_build_with_measured_times(measured: Workspace) -> None:
    """What a build claims comes from its record, what it took from the profile, and how fast it is from the rounds."""
    loaded, work = measured
    for variant in loaded.variants:
        run_evaluate(loaded, work, variant)
    run_benchmark(loaded, work)
    file, folder = work / "benchmark/certificates.json", work / "builds/base/int8_static"
    profiles, record = json.loads(file.read_text()), Record.read(folder)
    assert set(profiles) == {"base/fp32", "base/int8_static", "small/int8_dynamic", "small/int8_static"}
    (node,) = profiles["base/int8_static"]["1"]["layers"]
    layer = {"name": "dense", "node": node, "op": "MatMul", "kernel": "MatMul", "multiply_adds": 640, "weights": True}
    layer |= {"integer": False, "activations": "float", "between": "", "outputs": ["logits"]}
    shares = {"integer_multiply_add_share": 0.0, "integer_weight_share": 0.0}
    Record("ok", figures={**record.figures, "certificate": {**shares, "layers": [layer]}}).write(folder)
    # A busy machine's clock plants nothing surely.
    profiles["base/int8_static"]["1"] = {"layers": {node: 0.03}, "others": {"Flatten": 0.01}}
    profiles["base/fp32"]["1"] = profiles["base/int8_static"]["1"]
    file.write_text(json.dumps(profiles))
    rounds = pd.read_parquet(work / "benchmark/rounds.parquet")
    slow = rounds["cell"] == "base/int8_static"
    rounds.loc[slow, "nanoseconds"] = rounds.loc[slow, "nanoseconds"].map(lambda calls: calls * 1000)
    rounds.to_parquet(work / "benchmark/rounds.parquet")

    rows = {row["cell"]: row for row in run_compare(loaded, work)[0]["cells"]}
    assert {row["multiply_adds"] for row in rows.values()} == {640}
    assert [cell for cell, row in rows.items() if row["certificate"]] == ["base/int8_static"]
    assert rows["base/int8_static"]["certificate"] == {
        **shares,
        "integer_time_share": 0.0,
        "isa": [],
        "layers": [{key: layer[key] for key in list(layer)[:1] + list(layer)[2:7]} | {"time_share": 0.75}],
        "reasons": ["dense (MatMul, 100.0% of the multiply-adds) computes in floats (75% of the time)"],
    }


def test_evaluate_answers_every_row_and_copies_what_is_not_ok(measured: Workspace) -> None:
    loaded, work = measured
    metrics = run_evaluate(loaded, work, "base")
    assert set(metrics) == {"fp32", "int8_static"}
    found = answers.read(work / "predictions/base/fp32")
    assert len(found.labels) == 120
    assert metrics["fp32"]["accuracy"] == pytest.approx(found.accuracy())
    assert (found.predictions == found.logits.argmax(1)).all()
    copied = Record.read(work / "predictions/base/int8_dynamic")
    assert (copied.status, copied.reason) == ("refused", f"parity: {EVIL}")
    assert Record.read(work / "predictions/base/trt_int8") == Record("not measured", "no CUDA device")
    assert not (work / "predictions/base/int8_dynamic/predictions.parquet").exists()


def test_evaluate_keeps_what_did_not_change(measured: Workspace, make_build: Callable[..., str]) -> None:
    loaded, work = measured
    run_evaluate(loaded, work, "base")
    shutil.move(work / "predictions/base", work / "before")
    before = (work / "before/fp32/predictions.parquet").read_bytes()
    make_build("base", "int8_static", 3.0)
    for target in ("fp32", "int8_static"):
        (work / "before" / target / "mark").touch()
    run_evaluate(loaded, work, "base", work / "before")
    assert (work / "predictions/base/fp32/mark").exists()
    assert not (work / "predictions/base/int8_static/mark").exists()
    run_evaluate(loaded, work, "base")
    assert (work / "predictions/base/fp32/predictions.parquet").read_bytes() == before


def test_nan_answers_are_refused(measured: Workspace, make_build: Callable[..., str]) -> None:
    loaded, work = measured
    make_build("base", "fp32", float("nan"))
    run_evaluate(loaded, work, "base")
    record = Record.read(work / "predictions/base/fp32")
    assert (record.status, record.reason) == ("refused", "120 of 120 test rows have NaN or infinite logits")


def test_the_last_batch_changes_no_answer(measured: Workspace) -> None:
    """33 rows take two calls of 32; the second holds one row and its copies."""
    from components.data import read_rows

    rows = read_rows(Path("work/data/prepared"), "test", Spec.read(Path("work/data/prepared"))).head(33)
    session = runtime.open_build(Path("work/builds/base/fp32"), 1)
    assert np.allclose(answers.ask(session, rows).logits, session.run(rows.inputs), atol=1e-4)


def test_the_matrix_has_every_cell_with_its_figures_or_its_reason(measured: Workspace) -> None:
    loaded, work = measured
    for variant in loaded.variants:
        run_evaluate(loaded, work, variant)
    seconds = run_benchmark(loaded, work)
    assert {"eager", "control", "base/fp32", "base/int8_static"} <= set(seconds)
    matrix, tracked = run_compare(loaded, work)

    rows = {row["cell"]: row for row in matrix["cells"]}
    assert list(rows) == [f"{variant}/{target}" for variant in loaded.variants for target in loaded.targets]
    assert rows["base/int8_dynamic"]["reason"] == f"parity: {EVIL}"
    assert (rows["small/fp32"]["status"], rows["small/fp32"]["accuracy"]) == ("failed", None)
    assert rows["base/trt_fp16"]["status"] == "not measured"
    reference, same = rows["base/fp32"], rows["base/int8_static"]
    assert matrix["reference"] == "base/fp32"
    assert (reference["parity"]["kl"], reference["parity"]["export"]["kl"]) == (0.01, 0.0)
    assert rows["base/trt_fp16"]["parity"] is None
    assert (reference["verdict"], reference["accuracy_difference"]) == ("no worse", 0.0)
    assert (same["verdict"], same["flips"]["changed"]) == ("no worse", 0.0)  # the same weights
    assert (same["interval"], same["ece_change"]) == ("identical", {"difference": 0, "low": 0, "high": 0})
    other = rows["small/int8_static"]  # the same weights with the other sign
    assert (other["interval"], other["rows"]) == ("paired bootstrap", 120)
    assert set(other["classes"]) == set(map(str, range(10)))
    assert sum(one["rows"] for one in other["classes"].values()) == 120
    fell = other["class_change"]
    assert fell["change"] == min(one["change"] for one in other["classes"].values())
    assert fell["low"] <= fell["change"] < fell["high"]
    assert other["ece_change"]["difference"] == pytest.approx(other["ece"] - reference["ece"])
    flips = other["flips"]
    assert flips["wrong_to_right"] - flips["right_to_wrong"] == pytest.approx(other["accuracy_difference"])
    best = next(row for row in rows.values() if row["cell"] == matrix["best"])
    assert other["versus_best"]["difference"] == pytest.approx(other["accuracy"] - best["accuracy"])
    assert set(other["versus_best"]) >= {"class_change", "ece_change", "flips", "interval", "rows"}
    assert set(reference["latency_ms"]) == {"1", "32"}
    assert reference["size_mb"] == Path("work/builds/base/fp32/model.onnx").stat().st_size / 1e6
    assert reference["parameters"] == 64 * 4 + 4 + 4 * 10 + 10
    assert reference["peak_memory_mb"] > 0
    assert reference["load_low_ms"] <= reference["load_ms"] <= reference["load_high_ms"] and reference["loads"] == 1
    for size in ("1", "32"):
        latency = reference["latency"][size]
        assert 0 < latency["p50_ms"] == reference["latency_ms"][size] <= latency["p95_ms"]
        assert latency["rows_per_s"] > 0 and latency["calls"] >= 7
    assert reference["energy_mj"].keys() == {"1", "32"} and rows["small/fp32"]["energy_mj"] == {}
    energy = matrix["energy"]
    assert (energy["counter"] is None) == (reference["energy_mj"]["1"] is None)
    assert energy["counter"] or "; " in energy["reason"]  # what to do about it
    assert set(matrix["control"]["speedup"]) == {"1", "32"}
    assert all(
        set(row["beaten_by"]) <= {"base/fp32", "base/int8_static", "small/int8_dynamic"} for row in rows.values()
    )

    keys = {frozenset(metrics) for _, _, metrics, _ in tracked}
    assert len(tracked) == 10
    assert len(keys) == 1
    assert {"p95_ms_1", "p99_ms_32", "rows_per_s_32", "energy_mj_1"} <= next(iter(keys))
    failed = next(line for line in tracked if line[0] == "small/fp32")
    assert np.isnan(failed[2]["accuracy"])
    assert failed[3]["status"] == "failed"
    assert failed[1]["variant.fit.epochs"] == loaded.variants["small"].fit.epochs
    json.dumps(tracked)

    again, _ = run_compare(loaded, work, "again")
    assert again == matrix
    for name in ("matrix.json", "matrix.csv", "confusion.csv", "matrix.png", "matrix.md"):
        assert (work / "again" / name).read_bytes() == (work / "matrix" / name).read_bytes(), name
    with (work / "matrix/measured.csv").open(newline="", encoding="utf-8") as file:
        assert [row["cell"] for row in csv.DictReader(file)] == [
            c["cell"] for c in matrix["cells"] if c["status"] == "ok"
        ]
    with (work / "matrix/matrix.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 10
    assert (work / "matrix/confusion.csv").read_text("utf-8").count("\n") == 121

    text = printed(matrix, None)
    assert EVIL in text.replace("\n", " ")  # rich takes no markup from it either
    assert "Control, the reference against its own copy" in text
    for cell in rows:
        assert cell in text


def printed(matrix: dict[str, Any], decision: dict[str, Any] | None, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal.table(matrix, decision, width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return text


def test_a_champion_is_compared_on_the_same_rows(measured: Workspace) -> None:
    loaded, work = measured
    for variant in loaded.variants:
        run_evaluate(loaded, work, variant)
    run_benchmark(loaded, work)
    shutil.rmtree(work / "champion")
    shutil.copytree(work / "predictions/base/fp32", work / "champion")
    matrix, _ = run_compare(loaded, work)
    rows = {row["cell"]: row for row in matrix["cells"]}
    assert rows["base/fp32"]["versus_champion"]["difference"] == 0
    assert rows["small/int8_static"]["versus_champion"] is not None
    assert matrix["champion"]["accuracy"] == rows["base/fp32"]["accuracy"]
    champion = {"version": 4, "digest": rows["base/fp32"]["digest"]}
    winner = {"cell": "small/int8_static"}
    text = printed(matrix, {"winner": winner, "champion": champion})
    assert "champion, version 4" in text
    assert "chosen" in text
    printed(matrix, None, width=80)


@pytest.mark.parametrize("cell", ["base/int8_static", "champion"])
@pytest.mark.parametrize("fault", ["doubled", "other data"])
def test_damaged_answers_stop_it_by_name(measured: Workspace, cell: str, fault: str) -> None:
    loaded, work = measured
    for variant in loaded.variants:
        run_evaluate(loaded, work, variant)
    run_benchmark(loaded, work)
    folder = work / "champion" if cell == "champion" else work / "predictions" / cell
    if cell == "champion":
        shutil.rmtree(folder)
        shutil.copytree(work / "predictions/base/fp32", folder)
    damage(fault, folder, work / "data/prepared/test.parquet")
    with pytest.raises(TemperError, match=f"^{folder}/predictions.parquet: .*; run `dvc repro`"):
        run_compare(loaded, work)
    assert not list((work / "matrix").iterdir())  # nothing half-written


def test_answers_that_were_changed_are_asked_again(measured: Workspace) -> None:
    """What `dvc repro` does for them, though nothing that they were made from has changed."""
    loaded, work = measured
    run_evaluate(loaded, work, "base")
    shutil.move(work / "predictions/base", work / "before")
    honest = (work / "before/fp32/predictions.parquet").read_bytes()
    damage("shuffled", work / "before/fp32", work / "data/prepared/test.parquet")
    (work / "before/int8_static/mark").touch()
    assert set(run_evaluate(loaded, work, "base", work / "before")) == {"fp32", "int8_static"}
    assert (work / "predictions/base/fp32/predictions.parquet").read_bytes() == honest
    assert (work / "predictions/base/int8_static/mark").exists()


def test_a_matrix_without_any_measured_cell_still_comes(measured: Workspace) -> None:
    loaded, work = measured
    for variant in loaded.variants:
        for target in ("fp32", "int8_dynamic", "int8_static"):
            Record("refused", "parity").write(work / "builds" / variant / target)
        run_evaluate(loaded, work, variant)
    run_benchmark(loaded, work)
    matrix, _ = run_compare(loaded, work)
    assert {row["status"] for row in matrix["cells"]} == {"refused", "not measured"}
    assert "No A/A control" in printed(matrix, None)


def test_the_pairs_tell_apart_what_intervals_against_the_reference_do_not() -> None:
    """Rounds differ a hundredfold, but b takes 1.1 times as long as a in each; the reference has a noise of its own."""
    rng = np.random.default_rng(0)
    drift = rng.lognormal(0, 1, 40)
    seconds = {
        "base": {1: drift * rng.lognormal(0, 0.5, 40)},
        "a": {1: drift},
        "b": {1: drift * 1.1 * rng.lognormal(0, 0.01, 40), 32: drift / 2},
    }
    turns = {name: {size: values[:, None] for size, values in of.items()} for name, of in seconds.items()}
    against = {name: timing.of(name, "base", turns, seconds, {}, 0.95)["speedup"]["1"] for name in "ab"}
    assert against["b"][2] > against["a"][1]
    beaten = timing.beaten_by(["base", "a", "b", "untimed"], 1, seconds, 0.0, 0.95)
    assert (beaten["a"], beaten["untimed"]) == ({}, {})
    assert beaten["b"]["a"] == pytest.approx([1.1, 1.1, 1.1], rel=0.01)
    assert timing.beaten_by(["a", "b"], 1, seconds, 0.3, 0.95) == {"a": {}, "b": {}}  # the control sees not so fine


def test_the_table_shows_why_what_is_faster_was_not_chosen(measured: Workspace) -> None:
    loaded, work = measured
    for variant in loaded.variants:
        run_evaluate(loaded, work, variant)
    run_benchmark(loaded, work)
    matrix, _ = run_compare(loaded, work)
    small = next(row for row in matrix["cells"] if row["cell"] == "small/int8_static")
    small["versus_best"] = {"difference": -0.5, "low": -0.6, "high": -0.4, "verdict": "worse", "rows_needed": None}
    decision = decide(matrix, loaded.policy, {"version": None, "digest": None})
    assert "misses margin" in printed(matrix, decision)
    level = {**decision, "level": ["base/fp32"], "winner": {"cell": "base/int8_static"}}
    assert "level" in printed(matrix, level)
    assert "misses margin" in printed(matrix, decision, width=80)


def test_a_fault_while_timing_costs_one_cell(measured: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, work = measured
    for variant in loaded.variants:
        run_evaluate(loaded, work, variant)
    (work / "builds/small/int8_static/model.onnx").write_bytes(b"not a model")
    run_benchmark(loaded, work)
    cells = json.loads((work / "benchmark/cells.json").read_text("utf-8"))
    assert cells["small/int8_static"]["status"] == "failed"
    assert "build it again" in cells["small/int8_static"]["reason"]
    assert cells["base/fp32"]["status"] == cells["base/int8_static"]["status"] == "ok"
    row = next(row for row in run_compare(loaded, work)[0]["cells"] if row["cell"] == "small/int8_static")
    assert row["status"] == "failed"


def test_timings_of_another_machine_leave_nothing_half_written(measured: Workspace) -> None:
    loaded, work = measured
    for variant in loaded.variants:
        run_evaluate(loaded, work, variant)
    run_benchmark(loaded, work)
    (work / "host.json").write_text(json.dumps({**HOST, "machine": "another"}), "utf-8")
    with pytest.raises(TemperError, match=r"timed on another machine .machine 'test', here 'another'.; run"):
        run_compare(loaded, work)
    assert not list((work / "matrix").iterdir())
