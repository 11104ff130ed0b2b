from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ruamel.yaml import YAML

from components import assemble, build, engine, evaluate, hashing, runtime
from components.cell import Record
from components.data import Spec, read_rows
from components.hashing import sha256_file
from components.params import (
    OnnxFp16,
    OnnxFp32,
    OnnxInt8Dynamic,
    OnnxInt8Static,
    Parity,
    Pretrain,
    Target,
    TensorRt,
    Train,
)
from components.targets import TARGETS
from tests.contracts.test_members import tiny

TRAINED = Train.model_construct(kind="train")
ONNX: dict[str, Target] = {
    "fp32": OnnxFp32(kind="onnx_fp32"),
    "dynamic": OnnxInt8Dynamic(kind="onnx_int8_dynamic", per_channel=True, min_integer_share=1.0),
    "static": OnnxInt8Static(
        kind="onnx_int8_static", per_channel=True, calibration="minmax", rows=32, min_integer_share=1.0
    ),
}
ENGINE: dict[str, Target] = {"trt": TensorRt(kind="tensorrt", precision="fp16", batch_sizes=[1, 8, 32], rows=32)}
PARITY = Parity(
    batch_sizes=[1, 3, 16], rows=48, max_export_difference=1e-3, min_export_agreement=1.0, min_build_agreement=0.8
)


# One of matrix products, one of convolutions, one with attention; the contract tests build all.
@pytest.fixture(scope="module", params=["mlp", "resnet", "vit"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(directory: Path, family: str, spec: Spec) -> Path:
    assemble.save(tiny(family, spec), directory)
    return directory


def write_host(folder: Path, **changes: Any) -> Path:
    file = folder / "host.json"
    known = {"machine": "Some CPU", "isa": ["avx2"], "cores": 2, "gpu": None, "driver": None}
    known |= {"providers": ["cpu"], "onnxruntime": "1.32.0", "tensorrt": None}
    known |= {"onnx": "1.22.0", "onnxscript": "0.7.0", "torch": "2.13.0", "transformers": "5.6.0"}
    file.write_text(json.dumps({**known, **changes}))
    return file


def run(model: Path, prepared: Path, out: Path, previous: Path | None = None, **targets: Target) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    return build.run(TRAINED, targets or ONNX, PARITY, 2, prepared, model, write_host(out.parent), out, previous)


@pytest.fixture(scope="module")
def built(
    family: str, prepared: Path, spec: Spec, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp(family)
    return root, run(make(root / "model", family, spec), prepared, root / "out", **ONNX, **ENGINE)


def test_nothing_is_built_of_an_untrained_classifier(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    pretrained = Pretrain.model_construct(kind="pretrain")
    made, out = make(tmp_path / "model", "mlp", spec), tmp_path / "out"
    for previous in (None, out):
        again = tmp_path / f"after {previous is not None}"
        again.mkdir()
        assert build.run(pretrained, ONNX, PARITY, 2, prepared, made, write_host(tmp_path), again, previous) == {}
        out = again
    for target in ONNX:
        record = Record.read(out / target)
        assert record.status == "not measured" and "what others start from" in record.reason
        assert [path.name for path in (out / target).iterdir()] == ["record.json"]


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


def test_integer_kernels_do_the_work(built: tuple[Path, dict[str, Any]]) -> None:
    """All layers with weights, but for the convolution of the dynamic kind; attention's products stay float."""
    root, metrics = built
    graph = onnx.load(root / "out" / "export" / "model.onnx").graph
    weights = {tensor.name for tensor in graph.initializer}
    multiplied = [node.input[1] in weights for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    layers, products = multiplied.count(True), multiplied.count(False)
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    assert layers + convolutions > 0
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


def test_the_same_model_gives_the_same_bytes(built: tuple[Path, dict[str, Any]], prepared: Path, root: Path) -> None:
    """Also in another process with another order of hashing."""
    work, _ = built
    script = (
        "import sys; from pathlib import Path; from tests.components.test_build import run;"
        "run(*map(Path, sys.argv[1:4]))"
    )
    subprocess.run(
        [sys.executable, "-c", script, work / "model", prepared, work / "again"],
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


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [([0.0], [1.0], "mean 0 and std 1"), ([3.0], [4.0], "mean 3 and std 4")],
)
def test_stale_preprocessing_refuses_all_cells(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mean: Any, std: Any, words: str
) -> None:
    """The graph normalises with other statistics than the model's; none at all is 0 and 1."""
    model, honest = make(tmp_path / "model", "mlp", spec), build.export
    other = spec.model_copy(update={"statistics": {"mean": mean, "std": std}})
    monkeypatch.setattr(build, "export", lambda model, *args: honest(replace(model, spec=other), *args))
    run(model, prepared, tmp_path / "out")
    refused(tmp_path / "out", "export: torch -> ONNX, batch 1: ")
    export = Record.read(tmp_path / "out" / "export")
    assert export.status == "refused"
    found = re.search(r"stale preprocessing: .* normalised with mean (\S+) and std (\S+), the data have", export.reason)
    assert found and [float(x) for x in found.groups()] == pytest.approx([*mean, *std], abs=0.02), export.reason
    assert len(export.figures["parity"]["grid"]) == 3


def test_overflow_in_half_precision_refuses_that_cell(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    """Hidden values of millions, made small again behind: float32 has room for them."""
    model = assemble.load(make(tmp_path / "model", "mlp", spec))
    with torch.no_grad():
        first, *_, last = (module for module in model.module.modules() if isinstance(module, torch.nn.Linear))
        first.weight *= 1e7
        last.weight /= 1e7
    assemble.save(model, tmp_path / "model")
    targets: dict[str, Target] = {"fp32": ONNX["fp32"], "half": OnnxFp16(kind="onnx_fp16")}
    assert sorted(run(tmp_path / "model", prepared, tmp_path / "out", **targets)) == ["export", "fp32"]
    refused(tmp_path / "out", "ONNX -> half, batch 1: ", {"half": targets["half"]})
    reason = Record.read(tmp_path / "out" / "half").reason
    assert re.search(r"overflow in half precision, which ends at 65504: \w+ \S+ reaches \S+ in float32$", reason), (
        reason
    )


def swapped(graph: onnx.GraphProto) -> None:
    """Reverse the classes: what the last layer has ten of."""
    for tensor in graph.initializer:
        if tensor.dims and tensor.dims[0] == 10:
            flipped = onnx.numpy_helper.to_array(tensor)[::-1].copy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(flipped, tensor.name))


def stale(graph: onnx.GraphProto) -> None:
    """Normalise with mean 0 and std 1: not at all."""
    steps = {node.input[1]: node.op_type for node in graph.node if node.op_type in ("Sub", "Div")}
    for tensor in graph.initializer:
        if tensor.name in steps:
            value = np.full(tensor.dims, 0 if steps[tensor.name] == "Sub" else 1, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (swapped, r"labels are swapped"),
        (stale, "stale preprocessing: .* normalised with mean 0 and std 1, the data have mean 4.881 and std 6.078"),
    ],
)
def test_a_builds_fault_refuses_that_cell(
    prepared: Path,
    spec: Spec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[onnx.GraphProto], None],
    words: str,
) -> None:
    honest = TARGETS["onnx_int8_dynamic"].run

    def planted(exported: Path, params: Any, context: Any, out: Path) -> dict[str, Any]:
        loaded = onnx.load(exported)
        fault(loaded.graph)
        onnx.save(loaded, tmp_path / "planted.onnx")
        return honest(tmp_path / "planted.onnx", params, context, out)

    monkeypatch.setattr(TARGETS["onnx_int8_dynamic"], "run", planted)
    metrics = run(make(tmp_path / "model", "mlp", spec), prepared, tmp_path / "out")
    assert sorted(metrics) == ["export", "fp32", "static"]
    refused(tmp_path / "out", "ONNX -> dynamic, batch 1: ", {"dynamic": ONNX["dynamic"]})
    record = Record.read(tmp_path / "out" / "dynamic")
    assert re.search(words, record.reason), record.reason
    assert [row["batch_size"] for row in record.figures["parity"]["grid"]] == [1, 3, 16]


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
    real = {kind: target.run for kind, target in TARGETS.items()}

    def broken(*_: Any) -> dict[str, Any]:
        raise RuntimeError("planted")

    def count(kind: str) -> Any:
        return lambda *arguments: calls.append(kind) or real[kind](*arguments)

    monkeypatch.setattr(TARGETS["onnx_int8_static"], "run", broken)
    run(model, prepared, tmp_path / "first")
    record = Record.read(tmp_path / "first" / "static")
    assert (record.status, record.reason) == ("failed", "RuntimeError: planted") and "Traceback" in record.detail
    assert [Record.read(tmp_path / "first" / name).status for name in ("fp32", "dynamic")] == ["ok", "ok"]

    for kind in real:
        monkeypatch.setattr(TARGETS[kind], "run", count(kind))
    monkeypatch.setattr(build, "export", broken)  # nor is the export done again
    run(model, prepared, tmp_path / "second", tmp_path / "first")
    assert calls == ["onnx_int8_static"]
    assert {Record.read(tmp_path / "second" / name).status for name in ("export", *ONNX)} == {"ok"}


# (what changed: a file of code or a field of host.json, what is made again); all is kept that is not named.
ALL = "export dynamic fp32 static"
CHANGES = [
    ("components/report/words.py", ""),
    ("components/targets/new.py", ""),
    ("components/passes/train.py", ""),
    ("components/families/vit.py", ""),
    ("components/families/mlp.py", ALL),
    ("components/assemble.py", ALL),
    ("components/targets/onnx_int8_static.py", "static"),
    ("components/targets/tensorrt.py", "trt"),
    ("components/runtimes/tensorrt.py", "trt"),
    ("components/runtimes/onnxruntime.py", "dynamic fp32 static evaluated"),
    ("components/runtimes/onnxruntime_cuda.py", ""),
    ("components/engine.py", "trt"),
    ("components/graph.py", f"{ALL} trt"),
    ("components/certificate.py", f"{ALL} trt"),
    ("components/answers.py", "evaluated"),
    ("components/tasks/image_classification.py", f"{ALL} trt evaluated"),
    ("components/diagnosis.py", f"{ALL} trt"),
    ("isa", f"{ALL} evaluated"),
    ("gpu", "trt"),
    ("tensorrt", "trt"),
    ("onnxruntime", f"{ALL} evaluated"),
    ("torch", ALL),
    ("onnxscript", ALL),
    ("providers", ""),
    ("driver", ""),
]


def test_a_cell_is_made_again_when_what_it_was_made_with_changed(
    prepared: Path,
    spec: Spec,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, code = make(tmp_path / "model", "mlp", spec), tmp_path / "checkout"
    shutil.copytree(root / "components", code / "components", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(hashing, "CHECKOUT", code)
    caplog.set_level(logging.INFO, "components.cell")
    first, fp32 = tmp_path / "first", {"fp32": ONNX["fp32"]}

    def again(out: Path, host: Path, previous: Path | None) -> set[str]:
        """All three stages; which cells they did not keep."""
        made, engines = {*ALL.split(), "trt", "evaluated"}, tmp_path / "no engines"
        stages: list[Any] = [
            lambda *to: build.run(TRAINED, ONNX, PARITY, 2, prepared, model, host, *to),
            lambda *to: engine.run(ENGINE, PARITY, 2, prepared, first / "0", host, *to),
            lambda *to: evaluate.run(fp32, 2, prepared, first / "0", engines, host, *to),
        ]
        for i, stage in enumerate(stages):
            (out / str(i)).mkdir(parents=True)
            caplog.clear()
            stage(out / str(i), previous and previous / str(i))
            kept = {text.partition(":")[0] for text in caplog.messages if text.endswith("kept from the run before")}
            made -= {"evaluated"} if i == 2 and kept else kept
        return made

    again(first, write_host(tmp_path), None)
    for i, (changed, expected) in enumerate(CHANGES):
        file = code / changed
        before = file.read_bytes() if file.exists() else None
        if changed.endswith(".py"):
            file.write_bytes((before or b"") + b"# changed")
            host = write_host(tmp_path)
        else:
            host = write_host(tmp_path, **{changed: "another"})
        assert again(tmp_path / f"again{i}", host, first) == set(expected.split()), changed
        if before is not None:
            file.write_bytes(before)


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


def test_the_stage_is_run_again_where_its_cells_would_not_hold(root: Path) -> None:
    """What cells are told apart by is what dvc.yaml watches of the host."""
    entry = YAML(typ="safe").load((root / "dvc.yaml").read_text("utf-8"))["stages"]["build"]["do"]["params"]
    watched = [one for one in entry if "work/observed/host.json" in one]
    assert watched == [{"work/observed/host.json": list(build.HOST)}]
