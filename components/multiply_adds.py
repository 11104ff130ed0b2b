"""Multiply-adds of a graph's matrix products and convolutions for one row, counted as torch's FlopCounterMode does.

Einsum and recurrent layers are not counted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

log = logging.getLogger(__name__)

PRODUCTS = ("Gemm", "MatMul")
CONVOLUTIONS = ("Conv", "ConvTranspose")

Shape = Sequence[int]


def count(operator: str, transposed: bool, first: Shape, weights: Shape, output: Shape) -> int:
    """Of one node, for as many rows as its shapes hold. `transposed`: whether the first operand is, in a product.

    Weights are (out, in / groups, *kernel), those of ConvTranspose (in, out / groups, *kernel).
    """
    if operator == "Conv":
        return math.prod(output) * math.prod(weights[1:])
    if operator == "ConvTranspose":
        return math.prod(first) * math.prod(weights[1:])
    return math.prod(output) * first[-2 if transposed else -1]


def of_attention(kernel: str, first: Shape, second: Shape, output: Shape) -> tuple[int, int]:
    """(of the linear maps inside, of the products of two activations) of attention fused to one node.

    `second`: weights (in, 3 * width), of MultiHeadAttention, which has none inside, keys (batch, length, width).
    """
    if kernel == "MultiHeadAttention":
        return 0, 2 * math.prod(output) * second[1]
    return math.prod(first[:2]) * math.prod(second), 2 * math.prod(output) * first[1]


def attributes(node: NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def by_node(model: ModelProto) -> dict[str, int]:
    """{node: multiply-adds} for one row of a graph of ONNX's own operators, whose nodes have names.

    Shapes come from onnx's inference with the first dimension of an input, where it is open, set to 1. Raises
    ValueError where one is not known before the graph runs.
    """
    import onnx

    one = onnx.ModelProto()
    one.CopyFrom(model)
    del one.graph.value_info[:]  # the exporter's, with the batch in it
    for value in one.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(one, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes.setdefault(value.name, [dim.dim_value for dim in dims])
    counts = {}
    for node in graph.node:
        if node.op_type not in PRODUCTS + CONVOLUTIONS:
            continue
        used = [node.input[0], node.input[1], node.output[0]]
        if unknown := [name for name in used if name not in shapes]:
            raise ValueError(f"{node.name} ({node.op_type}): the shape of {unknown[0]} is not known before it runs")
        first, weights, output = (shapes[name] for name in used)
        counts[node.name] = count(node.op_type, bool(attributes(node).get("transA")), first, weights, output)
    return counts


def of_row(model: ModelProto) -> int | None:
    """All of them; None where a shape is not known before the graph runs."""
    try:
        return sum(by_node(model).values())
    except ValueError as error:
        log.info("multiply-adds cannot be counted without running it: %s", error)
        return None


def constants(model: ModelProto) -> set[str]:
    """Tensors that hang on no input: weights, and what is computed from weights alone."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:  # in the order in which they run
        if all(not name or name in fixed for name in node.input):
            fixed.update(node.output)
    return fixed
