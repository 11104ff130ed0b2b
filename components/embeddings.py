"""Tables of embeddings in int8, one scale a row: a quarter of the bytes, each row as exact as its own range allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

LEAST = 16  # columns of a table below which a row's scale would outweigh what its row saves


def shrink(model: ModelProto) -> int:
    """Quantize in place every float table that rows are gathered from, and nothing else takes; how many there are."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    takers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            rows = node.op_type == "Gather" and name == node.input[0] and not any(a.i for a in node.attribute)
            takers.setdefault(name, []).append("rows" if rows else node.op_type)
    nodes, done = [], set()
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or table.dims[1] < LEAST or set(takers[table.name]) != {"rows"}:
            nodes.append(node)
            continue
        name, out, rows = table.name, node.output[0], node.input[1]
        if name not in done:
            weights, scales = quantized(numpy_helper.to_array(table))
            table.CopyFrom(numpy_helper.from_array(weights, name))
            graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scale"))
            done.add(name)
        nodes += [
            helper.make_node("Gather", [name, rows], [f"{out}.int8"], node.name),
            helper.make_node("Cast", [f"{out}.int8"], [f"{out}.float"], f"{node.name}.cast", to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}.scale", rows], [f"{out}.scale"], f"{node.name}.scale"),
            helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out], f"{node.name}.mul"),
        ]
    if done:
        del graph.node[:]
        graph.node.extend(nodes)
    return len(done)


def quantized(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 (rows, columns) and scales, float32 (rows, 1); a row of zeros stays one."""
    largest = np.abs(table).max(1, keepdims=True)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales
