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


def test_a_residual_network_stays_in_integers_from_the_first_convolution_to_the_classifier(
    prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    nodes = static("resnet", prepared, spec, tmp_path)
    assert nodes["QLinearConv"] == 8  # the stem, two for each of three blocks, a projection
    assert nodes["QLinearAdd"] == 3 and nodes["QGemm"] == 1
    assert nodes["QLinearGlobalAveragePool"] == 1
    assert not {"Conv", "FusedConv", "Add", "Relu", "BatchNormalization", "ReduceMean"} & set(nodes)
    assert nodes["DequantizeLinear"] == 0 and nodes["QuantizeLinear"] == 1  # of the image


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


def test_only_a_mean_over_the_image_is_a_pooling() -> None:
    parse = onnx.parser.parse_graph
    model = onnx.helper.make_model(
        parse(
            "g (float[1,2,4,4] x, float[1,4,4] t) => (float[1,2,1,1] z, float[1,2] w, float[1,1,1,4] v, float[1,1,1] u)"
            " <int64[2] image = {-1, -2}, int64[2] others = {1, 2}, float[1,2,4,4] y, float[1,4,4] s> "
            "{ y = Relu (x) z = ReduceMean (y, image) w = ReduceMean <keepdims = 0> (y, image) "
            "v = ReduceMean (y, others) s = Relu (t) u = ReduceMean (s, image) }"
        )
    )
    graph.pool(model)
    assert [node.op_type for node in model.graph.node if node.op_type != "Relu"] == [
        "GlobalAveragePool",
        "ReduceMean",
        "ReduceMean",
        "ReduceMean",
    ]
