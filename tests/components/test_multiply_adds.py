"""Multiply-adds against counts by hand; test_certificate.py holds them against torch's for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from components import assemble, build, multiply_adds
from components.data import Spec, read_rows
from components.params import check_family


def graph(text: str) -> onnx.ModelProto:
    model = onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=[onnx.helper.make_opsetid("", 20)])
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node{i}"
    return model


@pytest.mark.parametrize(
    ("node", "by_hand"),
    [
        # 6 outputs of 5x4 positions, each a sum over 3 channels and a kernel of 3x3
        ("y = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w)", 6 * 5 * 4 * 3 * 3 * 3),
        # stride 2 leaves 3x2 positions
        ("y = Conv <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]> (x, w)", 6 * 3 * 2 * 3 * 3 * 3),
        # in three groups each output sees one channel
        ("y = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=3> (x, g)", 6 * 5 * 4 * 1 * 3 * 3),
        # each of 3x5x4 inputs is spread over 2 channels and 2x2 positions
        ("y = ConvTranspose <kernel_shape=[2,2]> (x, t)", 3 * 5 * 4 * 2 * 2 * 2),
    ],
)
def test_convolutions(node: str, by_hand: int) -> None:
    weights = "float[6,3,3,3] w, float[6,1,3,3] g, float[3,2,2,2] t"
    model = graph(f"g (float[N,3,5,4] x, {weights}) => (float[N] y) {{ {node} }}")
    assert multiply_adds.of_row(model) == by_hand


@pytest.mark.parametrize(
    ("node", "by_hand"),
    [
        ("y = MatMul (x, w)", 7 * 8 * 5),
        ("h = Transpose <perm=[0,2,1]> (x) y = MatMul (x, h)", 7 * 7 * 8),
        ("h = Flatten (x) y = Gemm (h, v)", 56 * 3),
        ("h = Flatten (x) y = Gemm <transB=1> (h, t)", 56 * 4),
        ("h = Relu (x) y = Add (h, x)", 0),
    ],
)
def test_products(node: str, by_hand: int) -> None:
    weights = "float[8,5] w, float[56,3] v, float[4,56] t"
    model = graph(f"g (float[N,7,8] x, {weights}) => (float[N] y) {{ {node} }}")
    assert multiply_adds.of_row(model) == by_hand


MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "mlp": ({"family": "mlp", "hidden": [32, 16], "dropout": 0.0}, 64 * 32 + 32 * 16 + 16 * 10),
    "lenet": (
        {"family": "lenet", "widths": [6, 16], "hidden": [32, 16]},
        # 5x5 kernels that keep 8x8 and 4x4; 2x2 positions of 16 channels are left
        64 * 6 * 25 + 16 * 16 * 6 * 25 + 64 * 32 + 32 * 16 + 16 * 10,
    ),
    "vit": (
        {
            "family": "vit",
            "patch_size": 2,
            "hidden_size": 24,
            "layers": 3,
            "heads": 4,
            "head_dim": 6,
            "intermediate_size": 40,
            "dropout": 0.0,
        },
        # 16 patches of 2x2 pixels; 17 tokens: query, key, value and output, attention's two products, the feed-forward
        16 * 24 * 4 + 3 * (4 * 17 * 24 * 24 + 2 * 17 * 17 * 24 + 2 * 17 * 24 * 40) + 24 * 10,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_by_hand(name: str, prepared: Path, spec: Spec, tmp_path: Path) -> None:
    section, by_hand = MODELS[name]
    file = tmp_path / "model.onnx"
    build.export(assemble.create(check_family(section), spec), read_rows(prepared, "validation", spec).inputs, file)
    assert multiply_adds.of_row(onnx.load(file)) == by_hand


def test_a_shape_that_only_running_tells_is_not_guessed() -> None:
    inputs = "float[N,4] x, int64[2] s, float[4,4] w"
    model = graph(f"g ({inputs}) => (float[N] y) {{ h = Reshape (x, s) y = MatMul (h, w) }}")
    with pytest.raises(ValueError, match=r"node1 \(MatMul\): the shape of h is not known before it runs"):
        multiply_adds.by_node(model)
    assert multiply_adds.of_row(model) is None
