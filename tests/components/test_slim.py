"""What is taken out of a quantized graph changes no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from components import build, graph
from components.data import Spec, read_rows
from components.session import ONNX_SESSION, onnx_session
from components.slim import slim
from tests.contracts.test_members import tiny


def model(text: str, **fixed: np.ndarray) -> onnx.ModelProto:
    """A graph in ONNX's own notation; `fixed` are its initializers."""
    made = onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=[onnx.helper.make_opsetid("", 20)])
    made.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in fixed.items())
    return made


@pytest.mark.parametrize("family", ["lenet", "mlp", "resnet", "vit"])
def test_answers_stay_the_same_to_the_bit(
    family: str, prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(prepared, "calibration", spec)
    build.export(tiny(family, spec), rows.inputs, tmp_path / "model.onnx")

    def quantized() -> bytes:
        graph.quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", rows.inputs, "minmax", True, signed=False)
        return (tmp_path / "int8.onnx").read_bytes()

    after = quantized()
    monkeypatch.setattr(graph, "slim", lambda model: None)
    before = quantized()

    weights = sum(t.ByteSize() for t in onnx.load_from_string(after).graph.initializer)
    assert len(after) - weights < 0.6 * (len(before) - weights)
    onnx.checker.check_model(onnx.load_from_string(after), full_check=True)
    one, other = (onnx_session(content, ONNX_SESSION, 1).run(None, dict(rows.inputs))[0] for content in (before, after))
    np.testing.assert_array_equal(one, other)


def test_what_multiplies_keeps_its_name(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    rows = read_rows(prepared, "calibration", spec)
    build.export(tiny("resnet", spec), rows.inputs, tmp_path / "model.onnx")
    graph.quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", rows.inputs, "minmax", True, signed=False)
    before, after = (
        {node.name for node in onnx.load(tmp_path / name).graph.node if node.op_type in {"Conv", "Gemm"}}
        for name in ("model.onnx", "int8.onnx")
    )
    assert before == after and "stem.0" in after


def test_equal_initializers_become_one_and_an_unused_one_goes() -> None:
    made = model(
        "g (float[2] image) => (float[2] logits) { y = Add (image, a) z = Mul (y, b) logits = Add (z, c) }",
        a=np.ones(2, np.float32),
        b=np.ones(2, np.float32),
        c=np.ones((1, 2), np.float32),
        unused=np.zeros(9, np.float32),
    )
    slim(made)
    assert [list(tensor.dims) for tensor in made.graph.initializer] == [[2], [1, 2]]


def test_short_names_are_not_those_of_inputs_and_outputs() -> None:
    made = model("g (float[2] image) => (float[2] logits) { inner = Relu (image) logits = Neg (inner) }")
    made.graph.input[0].name, made.graph.output[0].name = "0", "1"
    made.graph.node[0].input[0], made.graph.node[1].output[0] = "0", "1"
    slim(made)
    assert [(*node.input, *node.output) for node in made.graph.node] == [("0", "2"), ("2", "1")]


def test_only_a_zero_point_that_is_zero_goes_and_only_of_weights() -> None:
    text = (
        "g (float[1,1,4,4] image) => (float[1,1,4,4] logits) "
        "{ q = QuantizeLinear (image, scale, nought) x = DequantizeLinear (q, scale, nought) "
        "y = DequantizeLinear (w, scale, zero) logits = Conv (x, y) }"
    )
    for zero, inputs in ((3, 3), (0, 2)):
        fixed = {"w": np.ones((1, 1, 1, 1), np.int8), "zero": np.array(zero, np.int8), "nought": np.array(0, np.uint8)}
        made = model(text, scale=np.array(0.1, np.float32), **fixed)
        slim(made)
        assert [len(node.input) for node in made.graph.node] == [3, 3, inputs, 2]


def test_only_what_an_attribute_says_anyway_is_left_out() -> None:
    made = model(
        "g (float[1,1,4,4] image) => (float[1,1,2,2] logits) "
        "{ y = Conv <kernel_shape = [3, 3], group = 1, pads = [1, 1, 1, 1], strides = [2, 2], dilations = [1, 1]> "
        "(image, w) logits = Conv <strides = [1, 1], pads = [0, 0, 0, 0]> (y, v) }",
        w=np.ones((1, 1, 3, 3), np.float32),
        v=np.ones((1, 1, 1, 1), np.float32),
    )
    slim(made)
    assert [sorted(a.name for a in node.attribute) for node in made.graph.node] == [["pads", "strides"], []]
