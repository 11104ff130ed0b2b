"""A text classifier's graph for the processor: attention in one node, and nothing computed that no answer reads.

Both change no answer beyond rounding. Masks keep their meaning, left padding, holes and empty rows included: the
kernels get the raw mask, and only where the exported mask, run on masks of all kinds, is that and no more. What does
not fit the pattern (DeBERTa's attention) stays as it is, and so does a graph that takes no `attention_mask`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components import embeddings
from components.attention import LOWEST, MASK, Core, Graph, core_at, drop_dead, is_raw_mask

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

DOMAIN = "com.microsoft"
# Of a (batch, length, width) tensor, these compute every token from that token alone.
ELEMENTWISE = {"Add", "Div", "Erf", "Gelu", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"}


def fuse(model: ModelProto) -> dict[str, Any]:
    """Fuse in place; {attention_fused: layers, first_token: whether the last layer computes only the token that the
    classifier reads}, empty where there is nothing to fuse."""
    if MASK not in {value.name for value in model.graph.input}:
        return {}
    graph = Graph(model)
    cores = [core for node in graph.nodes if (core := core_at(graph, node))]
    proven = {name: is_raw_mask(model, name) for name in {core.mask for core in cores}}
    cores = [core for core in cores if proven[core.mask]]
    alone = _only_first(graph)
    cut = _cut(graph, alone, {core.output for core in cores})
    if not cores and not cut:
        return {}
    for number, core in enumerate(cores):
        _replace(model, core, f"fused.{number}", core.output in alone)
    if cores:
        from onnx import TensorProto, helper

        cast = helper.make_node("Cast", [MASK], ["fused.mask"], "fused.mask", to=TensorProto.INT32)
        model.graph.node.insert(0, cast)
        if DOMAIN not in {opset.domain for opset in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    drop_dead(model)
    return {"attention_fused": len(cores), "first_token": cut}


def _only_first(graph: Graph) -> set[str]:
    """Tensors (batch, length, width) of which only the first token reaches an answer."""
    found: set[str] = set()
    outputs = {value.name for value in graph.model.graph.output}

    def first(node: NodeProto) -> bool:
        index = graph.constant(node.input[1]) if node.op_type == "Gather" else None
        return index is not None and node.attribute[0].i == 1 and index.ndim == 0 and int(index) == 0

    for node in reversed(graph.nodes):
        for name in node.output:
            takers = graph.takers.get(name, [])
            inside = all(first(taker) or (taker.output[0] in found and _tokenwise(graph, taker)) for taker in takers)
            if takers and inside and name not in outputs:
                found.add(name)
    return found


def _tokenwise(graph: Graph, node: NodeProto) -> bool:
    if node.op_type == "MatMul":
        weights = graph.constant(node.input[1])
        return weights is not None and weights.ndim == 2
    if node.op_type == "LayerNormalization":
        return all(attribute.i in (-1, 2) for attribute in node.attribute if attribute.name == "axis")
    constants = [graph.constant(name) for name in node.input]
    return node.op_type in ELEMENTWISE and all(array is None or array.ndim < 2 for array in constants)


def _cut(graph: Graph, alone: set[str], cores: set[str]) -> bool:
    """Take the first token where a tensor of all tokens goes into what needs only the first; whether any does."""
    from onnx import helper, numpy_helper

    inner = [node for node in graph.nodes if node.output and node.output[0] in alone and _tokenwise(graph, node)]
    made = {node.output[0] for node in inner} | cores & alone
    cuts: dict[str, str] = {}
    for node in inner:
        for place, name in enumerate(node.input):
            if name and name not in made and graph.constant(name) is None:
                node.input[place] = cuts.setdefault(name, f"{name}.first")
    for name, short in cuts.items():
        place = list(graph.model.graph.node).index(graph.makers[name]) + 1
        graph.model.graph.node.insert(place, helper.make_node("Gather", [name, "fused.first"], [short], short, axis=1))
    graph.model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "fused.first"))
    return bool(inner)


def _replace(model: ModelProto, core: Core, name: str, first: bool) -> None:
    """One Attention; or where only the first token is wanted, its query alone against every key and value."""
    from onnx import helper, numpy_helper

    graph, source = model.graph, core.query.node.input[0]
    maps = [core.key, core.value] if first else [core.query, core.key, core.value]
    weights = np.concatenate([each.weights for each in maps], axis=1)
    for end, array in (("weight", weights), ("bias", np.concatenate([each.bias for each in maps]))):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{name}.{end}"))
    how = {"domain": DOMAIN, "num_heads": core.heads, "scale": core.scale, "mask_filter_value": LOWEST}
    layer = core.query.node.name.rpartition(".")[0] or name
    node = helper.make_node
    if first:
        short, split = f"{source}.first", [f"{name}.query", f"{name}.key", f"{name}.value"]
        query = core.query.node
        made = [
            node("MatMul", [short, query.input[1]], [f"{name}.product"], query.name),
            node("Add", [f"{name}.product", f"{name}.query_bias"], [split[0]], f"{name}.query_bias"),
            node("MatMul", [source, f"{name}.weight"], [f"{name}.products"], f"{layer}.key_value"),
            node("Add", [f"{name}.products", f"{name}.bias"], [f"{name}.both"], f"{name}.add"),
            node("Split", [f"{name}.both"], split[1:], f"{name}.split", axis=2, num_outputs=2),
            node("MultiHeadAttention", [*split, "", "fused.mask"], [core.output], layer, **how),
        ]
        graph.initializer.append(numpy_helper.from_array(core.query.bias, f"{name}.query_bias"))
        if not any(short in other.output for other in graph.node):
            made.insert(0, node("Gather", [source, "fused.first"], [short], short, axis=1))
    else:
        taken = [source, f"{name}.weight", f"{name}.bias", "fused.mask"]
        made = [node("Attention", taken, [core.output], layer, **how)]
    graph.node.remove(next(other for other in graph.node if core.output in other.output))
    place = list(graph.node).index(core.softmax)
    for offset, new in enumerate(made):
        graph.node.insert(place + offset, new)


def shrink(file: Path) -> int:
    """Of a quantized file, in place: its embeddings in int8, and nothing that is not needed; how many tables."""
    import onnx

    model = onnx.load(file)
    tables = embeddings.shrink(model)
    _share(model)
    drop_dead(model)
    file.write_bytes(model.SerializeToString(deterministic=True))
    return tables


def _share(model: ModelProto) -> None:
    """Let constants of one type, shape and value, such as zero points, be one."""
    from onnx import numpy_helper

    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    same = {}
    for tensor in model.graph.initializer:
        # The quantizer writes lists of numbers, some of which take more bytes than the numbers do.
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        key = tensor.data_type, tuple(tensor.dims), tensor.raw_data
        same[tensor.name] = first.setdefault(key, tensor.name)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
