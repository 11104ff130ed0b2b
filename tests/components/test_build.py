from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from components import assemble, build, runtime
from components.cell import Record
from components.data import Spec, read_rows
from components.hashing import sha256_file
from components.params import Mlp, OnnxFp32, OnnxInt8Dynamic, OnnxInt8Static, Parity, Target, TensorRt, Vit
from components.targets import TARGETS

FAMILIES: dict[str, Mlp | Vit] = {
    "mlp": Mlp(family="mlp", hidden=[32], dropout=0.5),
    "vit": Vit(
        family="vit",
        patch_size=4,
        hidden_size=32,
        layers=2,
        heads=2,
        head_dim=16,
        intermediate_size=64,
        dropout=0.5,
    ),
}
ONNX: dict[str, Target] = {
    "fp32": OnnxFp32(kind="onnx_fp32"),
    "dynamic": OnnxInt8Dynamic(kind="onnx_int8_dynamic", per_channel=True),
    "static": OnnxInt8Static(kind="onnx_int8_static", per_channel=True, calibration="minmax", rows=32),
}
ENGINE: dict[str, Target] = {"trt": TensorRt(kind="tensorrt", precision="fp16", batch_sizes=[1, 8, 32], rows=32)}
PARITY = Parity(
    batch_sizes=[1, 3, 16], rows=48, max_export_difference=1e-3, min_export_agreement=1.0, min_build_agreement=0.8
)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(directory: Path, family: str, spec: Spec) -> Path:
    torch.manual_seed(0)
    assemble.save(assemble.create(FAMILIES[family], spec), directory)
    return directory


def run(model: Path, prepared: Path, out: Path, previous: Path | None = None, **targets: Target) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    return build.run(targets or ONNX, PARITY, 2, prepared, model, out, previous)


@pytest.fixture(scope="module")
def built(
    family: str, prepared: Path, spec: Spec, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp(family)
    return root, run(make(root / "model", family, spec), prepared, root / "out", **ONNX, **ENGINE)


def test_every_onnx_target_is_built_and_answers_like_pytorch(
    built: tuple[Path, dict[str, Any]], prepared: Path, spec: Spec
) -> None:
    root, metrics = built
    assert sorted(path.name for path in (root / "out").iterdir()) == ["dynamic", "export", "fp32", "static"]
    assert metrics["export"]["parity"]["max_logit_difference"] < 1e-4
    rows = read_rows(prepared, "validation", spec)
    expected = build.eager(assemble.load(root / "model"))(rows.inputs)
    for target in ONNX:
        folder = root / "out" / target
        record = Record.read(folder)
        assert record.status == "ok", record.reason
        assert record.figures["digest"] == runtime.digest(folder)
        assert {row["batch_size"] for row in record.figures["parity"]["grid"]} == {1, 3, 16}
        card = json.loads((folder / "build.json").read_text())
        assert card["kind"] == ONNX[target].kind and card["spec"] == spec.model_dump()
        answers = runtime.open_build(folder, 2).run(rows.inputs)
        assert np.abs(answers - expected).max() < (1e-4 if target == "fp32" else 0.1)


def test_integer_kernels_do_the_work(built: tuple[Path, dict[str, Any]], family: str) -> None:
    """All layers with weights, but for the convolution of the dynamic kind; attention's products stay float."""
    layers, products = (2, 0) if family == "mlp" else (13, 4)
    convolutions = 0 if family == "mlp" else 1
    _, metrics = built
    assert metrics["fp32"]["integer_nodes"] == {}
    assert sum(metrics["fp32"]["float_nodes"].values()) == layers + products + convolutions
    assert sum(metrics["dynamic"]["integer_nodes"].values()) == layers
    assert sum(metrics["static"]["integer_nodes"].values()) == layers + convolutions
    assert sum(metrics["static"]["float_nodes"].values()) == products


def test_the_file_holds_no_trace_of_this_machine(built: tuple[Path, dict[str, Any]], root: Path) -> None:
    for target in ["export", *ONNX]:
        content = (built[0] / "out" / target / "model.onnx").read_bytes()
        for trace in (str(root), str(Path.home()), "stack_trace", ".py"):
            assert trace.encode() not in content


def test_the_same_model_gives_the_same_bytes(
    built: tuple[Path, dict[str, Any]], prepared: Path, family: str, root: Path
) -> None:
    """Also in another process with another order of hashing, tried where the graph is large."""
    work, _ = built
    if family == "mlp":
        run(work / "model", prepared, work / "again")
    else:
        script = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[4]); from test_build import run;"
            "run(*map(Path, sys.argv[1:4]))"
        )
        subprocess.run(
            [sys.executable, "-c", script, work / "model", prepared, work / "again", Path(__file__).parent],
            check=True,
            env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
        )
    for target in ["export", *ONNX]:
        assert sha256_file(work / "out" / target / "model.onnx") == sha256_file(work / "again" / target / "model.onnx")


def refused(out: Path, reason: str, targets: Mapping[str, Target] = ONNX) -> None:
    for target in targets:
        record = Record.read(out / target)
        assert (record.status, reason in record.reason) == ("refused", True), record.reason
        assert sorted(path.name for path in (out / target).iterdir()) == ["record.json"]


def test_dropped_preprocessing_refuses_all_cells(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, honest = make(tmp_path / "model", "mlp", spec), build.export

    def without(model: Any, example: Any, out: Path) -> None:
        graph = tmp_path / "honest.onnx"
        honest(model, example, graph)
        loaded = onnx.load(graph)
        (div,) = (node for node in loaded.graph.node if node.op_type == "Div")
        for node in loaded.graph.node:
            if div.output[0] in node.input:
                node.input[list(node.input).index(div.output[0])] = "unsqueeze"
        onnx.save(loaded, out)

    monkeypatch.setattr(build, "export", without)
    run(model, prepared, tmp_path / "out")
    refused(tmp_path / "out", "export: torch -> ONNX, batch 1: ")
    assert Record.read(tmp_path / "out" / "export").status == "refused"


def test_swapped_classes_refuse_that_cell(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(exported: Path, params: Any, context: Any, out: Path) -> dict[str, Any]:
        loaded = onnx.load(exported)
        for tensor in loaded.graph.initializer:
            if tensor.dims and tensor.dims[0] == 10:
                flipped = onnx.numpy_helper.to_array(tensor)[::-1].copy()
                tensor.CopyFrom(onnx.numpy_helper.from_array(flipped, tensor.name))
        onnx.save(loaded, out / "model.onnx")
        return {}

    monkeypatch.setitem(TARGETS, "onnx_int8_dynamic", swapped)
    metrics = run(make(tmp_path / "model", "mlp", spec), prepared, tmp_path / "out")
    assert sorted(metrics) == ["export", "fp32", "static"]
    refused(tmp_path / "out", "ONNX -> dynamic, batch 1: ", {"dynamic": ONNX["dynamic"]})


def test_nan_weights_refuse_all_cells(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    model = assemble.load(make(tmp_path / "model", "mlp", spec))
    with torch.no_grad():
        next(model.module.parameters())[0, 0] = float("nan")
    assemble.save(model, tmp_path / "model")
    run(tmp_path / "model", prepared, tmp_path / "out")
    refused(tmp_path / "out", "torch answers NaN or infinity for 48 of 48 rows")


def test_an_exception_costs_one_cell_and_a_retry_does_only_that_one(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = make(tmp_path / "model", "mlp", spec), []
    real = dict(TARGETS)

    def broken(*_: Any) -> dict[str, Any]:
        raise RuntimeError("planted")

    def count(kind: str) -> Any:
        return lambda *arguments: calls.append(kind) or real[kind](*arguments)

    monkeypatch.setitem(TARGETS, "onnx_int8_static", broken)
    run(model, prepared, tmp_path / "first")
    record = Record.read(tmp_path / "first" / "static")
    assert (record.status, record.reason) == ("failed", "RuntimeError: planted") and "Traceback" in record.detail
    assert [Record.read(tmp_path / "first" / name).status for name in ("fp32", "dynamic")] == ["ok", "ok"]

    for kind in real:
        monkeypatch.setitem(TARGETS, kind, count(kind))
    monkeypatch.setattr(build, "export", broken)  # nor is the export done again
    run(model, prepared, tmp_path / "second", tmp_path / "first")
    assert calls == ["onnx_int8_static"]
    assert {Record.read(tmp_path / "second" / name).status for name in ("export", *ONNX)} == {"ok"}


def test_a_failed_export_fails_every_cell(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(build, "export", broken)
    assert run(make(tmp_path / "model", "mlp", spec), prepared, tmp_path / "out") == {}
    for name in ONNX:
        record = Record.read(tmp_path / "out" / name)
        assert (record.status, record.reason) == ("failed", "export: ValueError: planted")


def test_the_test_split_is_not_needed(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    for name in ("spec.json", "validation.parquet", "calibration.parquet"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes((prepared / name).read_bytes())
    metrics = run(make(tmp_path / "model", "mlp", spec), tmp_path / "data", tmp_path / "out")
    assert sorted(metrics) == ["dynamic", "export", "fp32", "static"]
