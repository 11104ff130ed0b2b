"""Takes out of a quantized ONNX graph what ONNX Runtime does without: the same answers to the bit from fewer bytes.

Names and types of inner tensors, zero points that are zero, the scales of biases and attributes that say what holds
anyway are a fourteenth of a network of a few hundred kilobytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from components.multiply_adds import CONVOLUTIONS, PRODUCTS, attributes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
# What multiplies keeps its name, by which certificates tell of it.
NAMED = {*CONVOLUTIONS, *PRODUCTS}
BIAS, ZERO_POINT = 2, 2  # which input
# What an operator does where no attribute tells it otherwise.
DEFAULTS: dict[str, dict[str, Any]] = {
    "Conv": {"auto_pad": b"NOTSET", "dilations": [1, 1], "group": 1, "pads": [0, 0, 0, 0], "strides": [1, 1]},
    "DequantizeLinear": {"axis": 1},
    "QuantizeLinear": {"axis": 1},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
}


def slim(model: ModelProto) -> None:
    """In place. Inputs, outputs and what multiplies keep their names; other tensors get short ones, nodes none."""
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:
        _drop_defaults(node)
    _float_biases(graph)
    _drop_zero_points(graph)
    _share(graph)
    _rename(graph)


def _drop_defaults(node: NodeProto) -> None:
    known = DEFAULTS.get(node.op_type, {})
    told = attributes(node)
    for attribute in list(node.attribute):
        name = attribute.name
        # A convolution's kernel has the shape of its weights.
        if (name in known and told[name] == known[name]) or (node.op_type == "Conv" and name == "kernel_shape"):
            node.attribute.remove(attribute)


def _float_biases(graph: GraphProto) -> None:
    """Biases of convolutions as floats, without their scales, which take as much room: a bias's scale is that of
    the input times that of the weights, by which ONNX Runtime rounds it to the same integers again."""
    from onnx import numpy_helper

    fixed = {tensor.name: tensor for tensor in graph.initializer}
    dequantizers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    biases = {node.input[BIAS] for node in graph.node if node.op_type == "Conv" and len(node.input) > BIAS}
    for name in sorted(biases & set(dequantizers)):
        made = dequantizers[name]
        integers, scale = (numpy_helper.to_array(fixed[part]) for part in made.input[:ZERO_POINT])
        graph.node.remove(made)
        graph.initializer.append(numpy_helper.from_array((integers * scale).astype(np.float32), name))


def _drop_zero_points(graph: GraphProto) -> None:
    """Those of weights, where they are zero, which is what is meant without one. Matrix products become integer
    kernels, and what only moves numbers moves integers, where all are said."""
    from onnx import numpy_helper

    fixed = {tensor.name: tensor for tensor in graph.initializer}
    products = {name for node in graph.node if node.op_type in PRODUCTS for name in node.input}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) <= ZERO_POINT or node.output[0] in products:
            continue
        if node.input[0] in fixed and not numpy_helper.to_array(fixed[node.input[ZERO_POINT]]).any():
            del node.input[ZERO_POINT:]


def _share(graph: GraphProto) -> None:
    """Keep one of equal initializers, and none that nothing takes; as raw bytes, the shortest way to tell a number."""
    from onnx import numpy_helper

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first: dict[tuple[Any, ...], str] = {}
    same = {name: first.setdefault((x.dtype, x.shape, x.tobytes()), name) for name, x in values.items()}
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    taken = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in values.items() if name in taken)


def _rename(graph: GraphProto) -> None:
    kept = {value.name for value in [*graph.input, *graph.output]}
    free = (name for name in _names() if name not in kept)
    short = {name: name for name in ["", *kept]}
    for node in graph.node:
        if node.op_type not in NAMED:
            node.name = ""
        for names in (node.input, node.output):
            names[:] = [short[name] if name in short else short.setdefault(name, next(free)) for name in names]
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]


def _names() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(DIGITS, repeat=length))
