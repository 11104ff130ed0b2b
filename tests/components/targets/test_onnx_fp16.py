from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from components import graph, parity, runtime
from components.data import Spec, read_rows
from components.errors import Refused
from components.params import OnnxFp16
from components.parity import check_build
from components.targets import onnx_fp16
from tests.contracts.test_members import PARITY

FP16 = OnnxFp16(kind="onnx_fp16")


def linear(path: Path, scale: float) -> Path:
    """logits = image @ weight, of digits: 64 pixels, 10 classes."""
    weight = (scale * np.random.default_rng(0).normal(size=(64, 10))).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("Flatten", ["product"], ["logits"]),  # in half precision on every processor, so it overflows
    ]
    made = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def make(exported: Path, prepared: Path, spec: Spec, out: Path) -> dict[str, object]:
    out.mkdir()
    figures = onnx_fp16.run(exported, FP16, graph.context(prepared, 1, out), out)
    return runtime.ship(FP16, out, prepared, figures)


def test_it_is_half_as_large_and_says_in_what_it_multiplies(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    exported = linear(tmp_path / "model.onnx", 0.1)
    figures = make(exported, prepared, spec, tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT16}
    edges = [*model.graph.input, *model.graph.output]
    assert {edge.type.tensor_type.elem_type for edge in edges} == {TensorProto.FLOAT}
    assert figures["bytes"] < 0.75 * exported.stat().st_size  # type: ignore[operator]
    # On a processor with half-precision kernels both name the product, on another only the first does.
    assert figures["float_nodes"] == {"MatMul": 1} and figures["half_nodes"] in ({}, {"MatMul": 1})
    assert figures["cast_nodes"] >= 2  # type: ignore[operator]
    assert graph.kernels(exported, 1)["cast_nodes"] == 0


def test_nodes_that_take_half_precision_are_told_from_those_behind_a_cast() -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["small"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["small", "weight"], ["half"]),
        helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wide", "wide"], ["logits"]),
    ]
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, [4, 4])
    weight = numpy_helper.from_array(np.ones((4, 4), np.float16), "weight")
    made = helper.make_graph(nodes, "two", [value], [], [weight])
    assert list(graph._half_nodes(made)) == ["MatMul", "Cast"]


def test_what_overflows_is_refused_with_the_count(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    exported = linear(tmp_path / "model.onnx", 1e4)
    make(exported, prepared, spec, tmp_path / "out")
    words = r"ONNX -> fp16, batch 1: fp16 answers NaN or infinity for \d+ of \d+ rows; overflow .* MatMul \S+ reaches"
    with pytest.raises(Refused, match=words):
        check_build("fp16", exported, tmp_path / "out", prepared, PARITY, 1)


def test_its_answers_are_near_the_exports(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    exported = linear(tmp_path / "model.onnx", 0.1)
    make(exported, prepared, spec, tmp_path / "out")
    found = check_build("fp16", exported, tmp_path / "out", prepared, PARITY, 1)
    assert 0 < found["max_logit_difference"] < 0.05
    rows = read_rows(prepared, "validation", spec).inputs
    logits = runtime.open_build(tmp_path / "out", 1).run(rows)
    assert logits.dtype == np.float32 and parity.compare(logits, logits)["agreement"] == 1
