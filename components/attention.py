"""Attention of a text classifier in an exported graph, recognised by its pattern and its mask by running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MASK = "attention_mask"
LOWEST = float(np.finfo(np.float32).min)  # what transformers adds to the score of a masked token


@dataclass(frozen=True)
class Linear:
    """x @ weights + bias."""

    node: NodeProto  # the MatMul
    weights: np.ndarray  # (in, out)
    bias: np.ndarray
    output: str


@dataclass(frozen=True)
class Core:
    """Attention of one layer, from its three linear maps to what its heads say."""

    query: Linear
    key: Linear
    value: Linear
    softmax: NodeProto
    heads: int
    scale: float
    mask: str
    output: str  # (batch, length, width)


class Graph:
    """Who makes and who takes a tensor, and constants as arrays."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self.model, self.nodes = model, list(model.graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.takers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._array = numpy_helper.to_array

    def constant(self, name: str) -> np.ndarray | None:
        return self._array(self._weights[name]) if name in self._weights else None

    def made_by(self, name: str, operator: str) -> NodeProto | None:
        node = self.makers.get(name)
        return node if node is not None and node.op_type == operator else None

    def taken_by(self, name: str, operator: str) -> NodeProto | None:
        """What takes it, if nothing else does."""
        takers = self.takers.get(name, [])
        return takers[0] if len(takers) == 1 and takers[0].op_type == operator else None

    def split(self, node: NodeProto | None) -> tuple[NodeProto, str, np.ndarray] | None:
        """(node, the operand that is no constant, the constant) of a node with one of each."""
        if node is None or len(node.input) != 2:
            return None
        for name, other in (tuple(node.input), tuple(node.input)[::-1]):
            if (constant := self.constant(other)) is not None and self.constant(name) is None:
                return node, name, constant
        return None


def _linear(graph: Graph, name: str) -> Linear | None:
    added = graph.split(graph.made_by(name, "Add"))
    product = graph.split(graph.made_by(added[1], "MatMul")) if added else None
    if not added or not product or product[2].ndim != 2 or added[2].ndim != 1 or product[0].input[0] != product[1]:
        return None
    return Linear(product[0], product[2], added[2], name)


def _heads(graph: Graph, name: str, order: Sequence[int]) -> tuple[Linear, int] | None:
    """The linear map that was split into heads and transposed in this order, and the width of one head."""
    turned = graph.made_by(name, "Transpose")
    shaped = graph.made_by(turned.input[0], "Reshape") if turned and list(turned.attribute[0].ints) == order else None
    linear = _linear(graph, shaped.input[0]) if shaped else None
    if shaped is None or linear is None:
        return None
    joined = graph.made_by(shaped.input[1], "Concat")
    shape = graph.constant(joined.input[-1] if joined else shaped.input[1])
    return (linear, int(shape[-1])) if shape is not None and shape[-1] > 0 else None


def core_at(graph: Graph, softmax: NodeProto) -> Core | None:
    """The attention around this node: softmax(q k' scale + mask) v, heads joined again; None where it is another."""
    masked = graph.made_by(softmax.input[0], "Add") if softmax.op_type == "Softmax" else None
    if masked is None:
        return None
    for scores, mask in (tuple(masked.input), tuple(masked.input)[::-1]):
        scaled = graph.split(graph.makers.get(scores))
        if scaled and scaled[0].op_type in ("Mul", "Div") and scaled[2].size == 1:
            return _around(graph, softmax, scaled, mask)
    return None


def _around(graph: Graph, softmax: NodeProto, scaled: tuple[NodeProto, str, np.ndarray], mask: str) -> Core | None:
    product = graph.made_by(scaled[1], "MatMul")
    mixed = graph.taken_by(softmax.output[0], "MatMul")
    turned = graph.taken_by(mixed.output[0], "Transpose") if mixed else None
    joined = graph.taken_by(turned.output[0], "Reshape") if turned else None
    if not product or not mixed or not turned or not joined or list(turned.attribute[0].ints) != [0, 2, 1, 3]:
        return None
    query, value = (_heads(graph, name, [0, 2, 1, 3]) for name in (product.input[0], mixed.input[1]))
    key = _heads(graph, product.input[1], [0, 2, 3, 1])
    if not query or not key or not value or len({linear.weights.shape for linear, _ in (query, key, value)}) > 1:
        return None
    if len({linear.node.input[0] for linear, _ in (query, key, value)}) > 1:
        return None
    factor = float(scaled[2].reshape(()))
    scale = factor if scaled[0].op_type == "Mul" else 1 / factor
    heads = query[0].weights.shape[1] // query[1]
    return Core(query[0], key[0], value[0], softmax, heads, scale, mask, joined.output[0])


def is_raw_mask(model: ModelProto, name: str) -> bool:
    """Whether this tensor is 0 where `attention_mask` is 1 and LOWEST where it is 0, for every query: found by running
    what makes it on masks with padding at either end, holes, all tokens and none."""
    import onnx
    import onnxruntime as ort
    from onnx import helper

    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    drop_dead(part)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for rows, length in ((4, 7), (6, 12)):
        mask = rng.integers(0, 2, (rows, length))
        mask[0], mask[1], mask[2] = 1, 0, np.arange(length) > length // 2
        feeds = {value.name: rng.integers(0, 2, (rows, length)) for value in session.get_inputs()}
        found = session.run(None, {**feeds, **({MASK: mask} if MASK in feeds else {})})[0]
        wanted = np.where(mask[:, None, None, :] == 1, np.float32(0), np.float32(LOWEST))
        if found.ndim != 4 or found.shape[-1] != length or not (found == wanted).all():
            return False
    return True


def drop_dead(model: ModelProto) -> None:
    """Drop in place what no output hangs on, and the shapes noted of what is no more."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)
