"""The INT8 certificate: what share of a build's multiply-adds and time really is in integer kernels.

Of an ONNX file ONNX Runtime's profile tells it, of an engine TensorRT's inspector. A build that claims INT8 is
refused if a layer that its target quantizes computes in floats.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import fusion, multiply_adds
from components.errors import Refused
from components.graph import INTEGER_KERNELS
from components.params import OnnxFp32, OnnxInt8Dynamic, OnnxInt8Static, Target, TensorRt
from components.profiles import KERNELS, Executed, Inputs, execute, measure
from components.session import ONNX_SESSION

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


# Where a kernel takes its weights, if not second; of which operator it is, if it is not called so.
WEIGHTS_AT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
# Its layout pads channels: what would be counted is not what the model asks for.
UNPADDED = {**ONNX_SESSION, "disabled_optimizers": [*ONNX_SESSION["disabled_optimizers"], "NchwcTransformer"]}
ENGINE_LAYERS = ("conv", "gemm", "matmul", "matrixmultiply", "fullyconnected")  # in TensorRT's names of layers
ATTENTION = {"Attention", "MultiHeadAttention", "QAttention"}  # fused: linear maps and products of activations
NAMED = 3  # layers that a refusal names


def operator_of(kernel: str) -> str:
    """Conv, ConvTranspose, Gemm or MatMul."""
    if kernel == "ConvTranspose":
        return kernel
    return "Conv" if "Conv" in kernel else "Gemm" if "Gemm" in kernel else "MatMul"


def claimed(target: Target) -> tuple[str, ...]:
    """The operators that a target claims to compute in integers; none, if it claims no INT8."""
    if isinstance(target, OnnxInt8Dynamic):
        return multiply_adds.PRODUCTS
    if isinstance(target, OnnxInt8Static) or (isinstance(target, TensorRt) and target.precision == "int8"):
        return ("Conv", *multiply_adds.PRODUCTS)
    return ()


def layer_name(node: str) -> str:
    """A node's name without what optimisation and quantization hang to it."""
    return re.sub(r"(_MatMul|_quant|_nchwc|_token_\d+|/\w+Fusion/?)+$", "", node)


def layers(model: ModelProto, ran: Mapping[str, Executed], written: ModelProto) -> list[dict[str, Any]]:
    """The matrix products and convolutions of the optimised graph `model`, which ran for one row.

    `written` is the graph in the file: `outputs` of a layer are what it makes there and, with what was fused into
    it, here, since ONNX Runtime names a convolution that it gives another layout after one of them.
    """
    made = {layer_name(node.name): node.output[0] for node in written.graph.node}
    graph = model.graph
    dims, fixed = {tensor.name: list(tensor.dims) for tensor in graph.initializer}, multiply_adds.constants(model)
    found = []
    for node in graph.node:
        if node.op_type not in KERNELS or node.name not in ran:
            continue
        as_run, operator = ran[node.name], operator_of(node.op_type)
        weights = node.input[WEIGHTS_AT.get(node.op_type, 1)]
        shape = dims[weights] if weights in dims else as_run.shapes[1]
        if node.op_type in ATTENTION:
            inside, products = multiply_adds.of_attention(node.op_type, as_run.shapes[0], shape, as_run.output)
        else:
            transposed = bool(multiply_adds.attributes(node).get("transA"))
            inside = multiply_adds.count(operator, transposed, as_run.shapes[0], shape, as_run.output)
            products = 0
        told = [(node.name, inside, weights in fixed, node.op_type in INTEGER_KERNELS)] if inside else []
        if products:  # the whole node's time is told of its larger part, that with weights where it has any
            told.append((f"{node.name}/products" if inside else node.name, products, False, False))
        found += [
            {
                "name": layer_name(node.name),
                "node": name,
                "op": operator,
                "kernel": node.op_type,
                "multiply_adds": count,
                "weights": with_weights,
                "integer": integer,
                "activations": as_run.types[0],
                "between": _between(graph, node),
                "outputs": [node.output[0], made.get(layer_name(node.name), "")],
            }
            for name, count, with_weights, integer in told
        ]
    return found


def _between(graph: GraphProto, node: Any) -> str:
    """Where a node stands among quantizers, in words: floats between them are what a fake INT8 model is made of."""
    if node.op_type == "MatMulNBits":
        return "but for its weights (MatMulNBits)"
    makers = {name: other.op_type for other in graph.node for name in other.output}
    takers = {other.op_type for other in graph.node if set(node.output) & set(other.input)}
    before = any(makers.get(name) == "DequantizeLinear" for name in node.input)
    after = "QuantizeLinear" in takers
    if before and after:
        return "between DequantizeLinear and QuantizeLinear"
    return "after DequantizeLinear" if before else "before QuantizeLinear" if after else ""


def share(found: Sequence[Mapping[str, Any]]) -> float | None:
    """Of the multiply-adds of these layers, what is in integer kernels; None where there are none."""
    total = sum(layer["multiply_adds"] for layer in found)
    return sum(layer["multiply_adds"] for layer in found if layer["integer"]) / total if total else None


def of_onnx(content: bytes, threads: int, one: Inputs) -> dict[str, Any]:
    """The certificate of an ONNX build: {integer_multiply_add_share, integer_weight_share, layers}.

    `one`: one raw row. The first share is of all multiply-adds, the second of those of layers with weights.
    """
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        optimized = Path(scratch) / "optimized.onnx"
        ran = execute(content, UNPADDED, threads, one, optimized)
        found = layers(onnx.load(optimized), ran, onnx.load_from_string(content))
    return summary(found)


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "integer_multiply_add_share": share(found),
        "integer_weight_share": share([layer for layer in found if layer["weights"]]),
        "layers": found,
    }


def promised(exported: ModelProto, operators: Sequence[str]) -> int | None:
    """Multiply-adds, for one row, of the exported graph's layers with weights that a target quantizes.

    None where a shape is not known before it runs.
    """
    try:
        counts = multiply_adds.by_node(exported)
    except ValueError:
        return None
    fixed = multiply_adds.constants(exported)
    mine = [node for node in exported.graph.node if node.op_type in operators and node.input[1] in fixed]
    return sum(counts[node.name] for node in mine)


def gate(target: OnnxInt8Dynamic | OnnxInt8Static, found: Mapping[str, Any], owed: int) -> None:
    """Raise Refused where less than `target.min_integer_share` of the multiply-adds `owed` is in integer kernels.

    Owed is what the exported graph asks for, so that no layer can hide.
    """
    operators = claimed(target)
    mine = [layer for layer in found["layers"] if layer["weights"] and layer["op"] in operators]
    integer = sum(layer["multiply_adds"] for layer in mine if layer["integer"])
    if not owed:
        raise Refused(f"{target.kind} quantizes {', '.join(operators)} with weights: this model has none")
    if integer >= target.min_integer_share * owed:
        return
    floats = sorted((layer for layer in mine if not layer["integer"]), key=lambda layer: -layer["multiply_adds"])
    raise Refused(
        f"claims INT8, but {integer / owed:.1%} of the multiply-adds of its {', '.join(operators)} layers are in "
        f"integer kernels, must be {target.min_integer_share:.0%} (min_integer_share): "
        f"{in_floats(floats, owed) or 'the rest is in kernels that are none of these'}"
    )


def in_floats(floats: Sequence[Mapping[str, Any]], total: int) -> str:
    """Layers that compute in floats, in words: the first few by name."""
    words = []
    for layer in floats[:NAMED]:
        where = f" {layer['between']}" if layer["between"] else ""
        words.append(
            f"{layer['name']} ({layer['op']}, {layer['multiply_adds'] / total:.1%} of them) computes in floats{where}"
        )
    more = f", and so do {len(floats) - NAMED} more" if len(floats) > NAMED else ""
    return "; ".join(words) + more


def certify(target: Target, folder: Path, exported: Path, one: Inputs, threads: int) -> dict[str, Any]:
    """{certificate: ...} of the build in `folder` if its target claims INT8, else nothing.

    Raises Refused for a build that computes in floats what its target quantizes.
    """
    if isinstance(target, OnnxInt8Dynamic | OnnxInt8Static):
        import onnx

        found = of_onnx((folder / "model.onnx").read_bytes(), threads, one)
        floats = onnx.load(exported)
        fusion.fuse(floats)  # what no answer reads is not owed
        owed = promised(floats, claimed(target))
        if owed is None:  # then what the float graph runs
            ran, operators = of_onnx(floats.SerializeToString(), threads, one)["layers"], claimed(target)
            owed = sum(layer["multiply_adds"] for layer in ran if layer["weights"] and layer["op"] in operators)
        gate(target, found, owed)
        return {"certificate": found}
    if isinstance(target, TensorRt) and claimed(target):
        return {"certificate": of_engine(json.loads((folder / "layers.json").read_text("utf-8")))}
    return {}


def of_engine(told: Sequence[Any]) -> dict[str, Any]:
    """The certificate of a TensorRT engine from what its inspector says of every layer (LayerInformationFormat.JSON).

    A layer is in integers if its first input is int8. Multiply-adds are known of convolutions, whose weights are
    told by number; a share that would leave out a layer is None. Raises Refused if formats are told, and none of
    a layer that multiplies is int8.
    """
    found = []
    for layer in told:
        if not isinstance(layer, Mapping):  # a name only: built without detailed verbosity
            continue
        kind = str(layer.get("ParameterType") or layer.get("LayerType", "")).lower()
        formats = [str(tensor.get("Format/Datatype", "")).lower() for tensor in layer.get("Inputs", [])]
        if not formats or not any(word in kind for word in ENGINE_LAYERS):
            continue
        output = layer["Outputs"][0].get("Dimensions", []) if layer.get("Outputs") else []
        weights = layer.get("Weights", {}).get("Count")
        counted = "conv" in kind and weights and len(output) > 2 and min(output[2:]) > 0
        found.append(
            {
                "name": layer.get("Name", ""),
                "node": layer.get("Name", ""),
                "op": "Conv" if "conv" in kind else "MatMul",
                "kernel": layer.get("TacticName") or layer.get("LayerType", ""),
                "multiply_adds": weights * math.prod(output[2:]) if counted else None,
                "weights": bool(weights),
                "integer": "int8" in formats[0],
                "activations": formats[0],
                "between": "",
                "outputs": [],
            }
        )
    if found and any(layer["activations"] for layer in found) and not any(layer["integer"] for layer in found):
        raise Refused(
            f"claims INT8, but no layer of the engine takes an int8 input: {found[0]['name']} takes "
            f"{found[0]['activations']}, {len(found)} multiply"
        )
    if any(layer["multiply_adds"] is None for layer in found):
        return {"integer_multiply_add_share": None, "integer_weight_share": None, "layers": found}
    return summary(found)


def write_measured(
    path: Path,
    cells: Iterable[str],
    targets: Mapping[str, Target],
    builds: Path,
    threads: int,
    batches: Mapping[int, Inputs],
) -> None:
    """certificates.json: {variant/target: {batch size: `measure`}} of the INT8 builds among `cells` and their fp32."""
    groups: dict[str, dict[str, Path]] = {}
    for cell in cells:
        variant, _, target = cell.partition("/")
        if isinstance(targets[target], OnnxFp32 | OnnxInt8Dynamic | OnnxInt8Static):
            groups.setdefault(variant, {})[cell] = builds / cell
    found: dict[str, dict[str, Any]] = {}
    for group in groups.values():
        if any(claimed(targets[cell.partition("/")[2]]) for cell in group):
            for size, inputs in batches.items():
                for cell, measured in measure(group, threads, inputs).items():
                    found.setdefault(cell, {})[str(size)] = measured
    path.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
