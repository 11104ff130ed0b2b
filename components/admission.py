"""What an ONNX file may be before anything parses it for use: bounded, plain, and of operators that are known.

`scan` goes over the bytes as they are: what a file unpacks to is not bounded by its size, two bytes can be a node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

MOST_PARTS = 1_000_000  # fields of the file; a 24-layer transformer has some 200,000
MOST_DEPTH = 24  # messages inside each other
DOMAINS = ("", "ai.onnx", "com.microsoft")
SUBGRAPH = "has a graph inside a node (If, Loop, Scan or the like), which no build of Temper's has"


def scan(content: bytes) -> None:
    """Raises ValueError for what is no ONNX file, has too many parts or depth, or code-like parts."""
    import onnx

    todo: list[tuple[int, int, Any, int]] = [(0, len(content), onnx.ModelProto.DESCRIPTOR, 0)]
    parts = 0
    while todo:
        at, end, kind, depth = todo.pop()
        known = _messages(kind)
        while at < end:
            parts += 1
            if parts > MOST_PARTS:
                raise ValueError(f"has more than {MOST_PARTS:,} parts")
            tag, at = _varint(content, at, end)
            wire, field = tag & 7, tag >> 3
            if wire == 0:
                _, at = _varint(content, at, end)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            elif wire == 2:
                length, at = _varint(content, at, end)
                inner = known.get(field)
                if inner is not None and at + length <= end:
                    if inner.name == "GraphProto" and depth:
                        raise ValueError(SUBGRAPH)
                    if inner.name in ("FunctionProto", "TrainingInfoProto", "SparseTensorProto"):
                        raise ValueError(f"has a {inner.name}, which no build of Temper's has")
                    if depth >= MOST_DEPTH:
                        raise ValueError(f"has parts inside each other more than {MOST_DEPTH} deep")
                    todo.append((at, at + length, inner, depth + 1))
                at += length
            else:
                raise ValueError("is no ONNX model")
        if at != end:
            raise ValueError("is no ONNX model")


@cache
def _messages(kind: Any) -> Mapping[int, Any]:
    """The fields of a message that are messages, by their numbers."""
    return {number: field.message_type for number, field in kind.fields_by_number.items() if field.message_type}


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("is no ONNX model")


def check(content: bytes, spec: Mapping[str, Any] | None = None) -> Any:
    """The parsed model. Raises ValueError that says what of it is refused.

    `spec`, of build.json: its inputs must be those of the graph, and the answer must be `logits`.
    """
    import onnx

    scan(content)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own class, which has no types
        raise ValueError("is no ONNX model") from error
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain not in DOMAINS:
            raise ValueError(f"needs operators of {opset.domain!r}, which only code from elsewhere brings")
        if opset.domain != "com.microsoft" and not 1 <= opset.version <= newest:
            raise ValueError(f"is of opset {opset.version}; known are 1 to {newest}")
    for node in model.graph.node:
        if node.domain not in DOMAINS:
            raise ValueError(f"has an operator of {node.domain!r}, which only code from elsewhere brings")
    for tensor in [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute if a.HasField("t"))]:
        _check_tensor(tensor)
    if spec is not None:
        _check_signature(model.graph, spec)
    return model


def _check_tensor(tensor: Any) -> None:
    """The values of a tensor are as many as its shape says: else a runtime makes room for what is not there."""
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return
    if any(size < 0 for size in tensor.dims) or tensor.data_type not in onnx.TensorProto.DataType.values():
        raise ValueError(f"has a tensor {tensor.name[:60]!r} of no shape or type that there is")
    kinds = onnx.TensorProto
    wide = {kinds.FLOAT: 32, kinds.INT32: 32, kinds.INT64: 64, kinds.DOUBLE: 64, kinds.FLOAT16: 16, kinds.INT8: 8}
    count = math.prod(tensor.dims)
    held = 8 * len(tensor.raw_data)  # bits
    if not held:  # values one by one, and never fewer bits than they are read as
        typed = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        held = 64 * sum(map(len, typed))
    if count * wide.get(tensor.data_type, 2) > held:
        raise ValueError(f"has a tensor {tensor.name[:60]!r} of {count:,} values and fewer bits")


def _check_signature(graph: Any, spec: Mapping[str, Any]) -> None:
    import onnx

    kinds = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
    given = {value.name for value in graph.initializer}
    found = {
        value.name: (kinds.get(value.type.tensor_type.elem_type), len(value.type.tensor_type.shape.dim))
        for value in graph.input
        if value.name not in given
    }
    rank = 1 + len(spec["shape"])
    wanted = {name: (kind, rank) for name, kind in spec["inputs"].items()}
    if found != wanted:
        raise ValueError(f"takes {found}, its build.json says {wanted}")
    if [value.name for value in graph.output] != ["logits"]:
        raise ValueError("answers something else than logits")
