"""The ONNX graph on its way to a target: tidying, halving and quantizing it, counting what runs in which precision."""

from __future__ import annotations

import ast
import contextlib
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.data import Spec, read_rows
from components.session import CUDA, ONNX_SESSION, onnx_session, placement
from components.slim import slim

if TYPE_CHECKING:
    from onnx import ModelProto

# Names of ONNX Runtime's kernels in an optimised graph.
INTEGER_KERNELS = {
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}
# What joins convolutions and has an integer kernel too: in floats, each would cost a conversion there and back.
JOINTS = {"Add", "AveragePool", "Clip", "GlobalAveragePool", "MaxPool", "Relu"}
FLOAT_KERNELS = {
    "Attention",
    "Conv",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "Gemm",
    "MatMul",
    "MultiHeadAttention",
}


@dataclass(frozen=True)
class Context:
    """What a target may use besides the exported graph and its params."""

    spec: Spec
    calibration: Callable[[int], Mapping[str, np.ndarray]]  # that many raw rows of the calibration split
    threads: int
    cache: Path  # for what makes the next build faster and changes no result


def context(data: Path, threads: int, cache: Path) -> Context:
    spec = Spec.read(data)
    # The first rows are a random sample: splits are in hash order.
    return Context(spec, lambda rows: read_rows(data, "calibration", spec).head(rows).inputs, threads, cache)


def tidy(model: ModelProto) -> None:
    """Drop doc strings and metadata in place: they hold stack traces and paths, which differ between machines."""
    graph = model.graph
    for holder in [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        del holder.metadata_props[:]
        holder.doc_string = ""


def name_layers(model: ModelProto) -> None:
    """Name matrix products and convolutions in place after the modules they come from: "vit.layers.0.mlp.fc1".

    Reads what the exporter noted on its nodes, which `tidy` drops; a weight's own name is surer, since a convolution
    is noted as the normalisation that was folded into it. Two of one module get their own names behind it.
    """
    scopes: dict[str, list[str]] = {}
    for node in model.graph.node:
        told = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        found = [scope for scope in ast.literal_eval(told) if scope]
        if node.op_type in FLOAT_KERNELS and len(found) > 1:
            weight, _, ends = node.input[1].rpartition(".")
            module = weight if ends == "weight" else found[-2]
            short = module.removeprefix("module.")
            scopes[node.name] = [module if short[:1].isdigit() else short, found[-1]]
    shared = Counter(module for module, _ in scopes.values())
    for node in model.graph.node:
        if node.name in scopes:
            module, own = scopes[node.name]
            node.name = f"{module}.{own}" if shared[module] > 1 else module


def _left_in_floats(model: ModelProto) -> list[str]:
    """Names of the nodes that stay float: products of two activations (attention), joints of more than convolutions."""
    weights = {tensor.name for tensor in model.graph.initializer}
    integers: set[str] = set()  # tensors that come from a convolution by way of joints alone
    left = []
    for node in model.graph.node:
        inputs = node.input if node.op_type == "Add" else node.input[:1]
        if node.op_type == "Conv" or (node.op_type in JOINTS and integers.issuperset(inputs)):
            integers.update(node.output)
        elif node.op_type in JOINTS or (node.op_type == "MatMul" and node.input[1] not in weights):
            left.append(node.name)
    return left


def pool(model: ModelProto) -> None:
    """Say in place that a mean over the image is a pooling: what has an integer kernel, and needs no other layout."""
    from onnx import helper, numpy_helper

    fixed = {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in fixed:
            continue
        kept = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        axes = sorted(axis % 4 for axis in numpy_helper.to_array(fixed[node.input[1]]).tolist())
        if kept and ranks.get(node.input[0]) == 4 and axes == [2, 3]:
            node.CopyFrom(helper.make_node("GlobalAveragePool", node.input[:1], node.output, node.name))
    taken = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in taken]:
        model.graph.initializer.remove(tensor)


def half(model: ModelProto) -> ModelProto:
    """The graph in half precision; inputs and outputs stay float, and so does normalisation, which overflows."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    kept = [*DEFAULT_OP_BLOCK_LIST, "LayerNormalization"]
    converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True, op_block_list=kept))
    converted.topological_sort(is_deterministic=True)  # the converter puts its casts anywhere
    del converted.model.graph.value_info[:]  # and keeps types that are no longer true
    tidy(converted.model)
    return converted.model


def write_half(exported: Path, out: Path) -> None:
    """`half` from file to file; the same graph gives the same bytes."""
    import onnx

    out.write_bytes(half(onnx.load(exported)).SerializeToString(deterministic=True))


def quantize(
    exported: Path,
    out: Path,
    feeds: Mapping[str, np.ndarray],
    method: str,
    per_channel: bool,
    signed: bool,
) -> None:
    """Write `exported` with Q/DQ nodes around Conv, Gemm and MatMul with weights; weights become int8.

    Activations are uint8, also on their way between convolutions; or with `signed`, around the layers only,
    symmetric int8 with zero point 0, as TensorRT takes them, biases then staying float. `method` is minmax, entropy
    or percentile. MatMuls of two activations (attention) stay float, and so do outputs: ONNX Runtime then runs
    MatMulIntegerToFloat, measured faster and closer.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rows = len(next(iter(feeds.values())))
            self._batches = iter(
                {name: x[start : start + 32] for name, x in feeds.items()} for start in range(0, rows, 32)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    model = onnx.load(exported)
    activation = QuantType.QInt8 if signed else QuantType.QUInt8
    options: dict[str, Any] = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
    if signed:
        options |= {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        options["OpTypesToExcludeOutputQuantization"] = ["MatMul", "Gemm", "Conv"]
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    with quiet_tools():
        quantize_static(
            model,
            out,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", *([] if signed else sorted(JOINTS))],
            nodes_to_exclude=_left_in_floats(model),
            per_channel=per_channel,
            activation_type=activation,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[method],
            extra_options=options,
        )
    if not signed:  # what TensorRT does without is another matter
        quantized = onnx.load(out)
        slim(quantized)
        out.write_bytes(quantized.SerializeToString(deterministic=True))


@contextlib.contextmanager
def quiet_tools() -> Iterator[None]:
    """Silence the root logger, on which the quantizer advises a pre-processing that fails on exported graphs."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def kernels(file: Path, threads: int, session: Mapping[str, Any] = ONNX_SESSION) -> dict[str, Any]:
    """How many nodes of the optimised graph multiply in integers, in floats and, of these, in half precision, by
    kernel; and how many casts there are."""
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        optimized = Path(scratch) / "optimized.onnx"
        onnx_session(file.read_bytes(), session, threads, optimized)
        graph = onnx.load(optimized).graph
    counts = Counter(node.op_type for node in graph.node)
    halves = Counter(_half_nodes(graph))
    return {
        "integer_nodes": {name: counts[name] for name in sorted(INTEGER_KERNELS & set(counts))},
        "float_nodes": {name: counts[name] for name in sorted(FLOAT_KERNELS & set(counts))},
        "half_nodes": {name: halves[name] for name in sorted(FLOAT_KERNELS & set(halves))},
        "cast_nodes": counts["Cast"],
    }


def _half_nodes(graph: Any) -> Iterator[str]:
    """Operators of the nodes that take half precision: an optimised graph tells no types but at its edges."""
    from onnx import TensorProto, helper

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for node in graph.node:  # in the order in which they run
        taken = next((types[name] for name in node.input if types.get(name) in floats), None)
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        types |= dict.fromkeys(node.output, attributes["to"] if node.op_type == "Cast" else taken)
        if taken == TensorProto.FLOAT16:
            yield node.op_type


def placed(file: Path, threads: int) -> dict[str, Any]:
    """How many nodes CUDA runs and how many are left to the processor, by operator."""
    found = placement(onnx_session(file.read_bytes(), {}, threads, provider=CUDA))
    return {
        "cuda_nodes": found.pop(CUDA, {}),
        "cpu_nodes": {name: n for at in found.values() for name, n in at.items()},
    }
