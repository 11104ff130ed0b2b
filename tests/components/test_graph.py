"""What the graph of a quantized network runs in integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from components import build, graph
from components.data import Spec, read_rows
from components.session import ONNX_SESSION, onnx_session
from tests.contracts.test_members import tiny


def static(family: str, prepared: Path, spec: Spec, folder: Path) -> Counter[str]:
    """How many nodes of which kind the optimised graph of a statically quantized model has."""
    rows = read_rows(prepared, "calibration", spec)
    build.export(tiny(family, spec), rows.inputs, folder / "model.onnx")
    graph.quantize(folder / "model.onnx", folder / "int8.onnx", rows.inputs, "minmax", per_channel=True, signed=False)
    onnx_session((folder / "int8.onnx").read_bytes(), ONNX_SESSION, 1, folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_a_residual_network_stays_in_integers_from_the_first_convolution_to_the_pooling(
    prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    nodes = static("resnet", prepared, spec, tmp_path)
    assert nodes["QLinearConv"] == 8  # the stem, two for each of three blocks, a projection
    assert nodes["QLinearAdd"] == 3 and nodes["QGemm"] == 1
    assert not {"Conv", "FusedConv", "Add", "Relu", "BatchNormalization"} & set(nodes)
    assert nodes["DequantizeLinear"] == 1 and nodes["QuantizeLinear"] == 2  # before the pooling; image and classifier


def test_sums_between_matrix_products_stay_float(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    nodes = static("vit", prepared, spec, tmp_path)
    assert nodes["QLinearAdd"] == 0
    assert nodes["MatMulIntegerToFloat"] > 0


def test_a_joint_of_a_convolution_and_something_else_stays_float() -> None:
    parse = onnx.parser.parse_graph
    model = onnx.helper.make_model(
        parse(
            "g (float[1,1,4,4] x) => (float[1,1,4,4] z) <float[1,1,1,1] w = {1}> "
            "{ [conv] y = Conv (x, w) [same] r = Relu (y) [sum] s = Add (r, y) [mixed] z = Add (s, x) }"
        )
    )
    assert graph._left_in_floats(model) == ["mixed"]
