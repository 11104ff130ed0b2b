"""Why an INT8 build is no faster: every reason from a graph in which it is planted, and the certificate in a row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from components import certificate, graph, host, profiles, reasons
from components.session import ONNX_SESSION

X86 = ["avx2", "avx512f", "avx512_vnni"]
RNG = np.random.default_rng(0)


def chain(file: Path, width: int, layers: int, between: Sequence[str] = ("Relu",)) -> Path:
    """`layers` products of `width` by `width`, with operators of one input between them."""
    nodes, weights, taken = [helper.make_node("Flatten", ["x"], ["flat"])], [], "flat"
    for i in range(layers):
        weights.append(numpy_helper.from_array(RNG.normal(size=(width, width)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [taken, f"w{i}"], [f"m{i}"], f"layer{i}"))
        taken = f"m{i}"
        for operator in between if i + 1 < layers else ():
            nodes.append(helper.make_node(operator, [taken], [f"{taken}_{operator}"], f"{taken}_{operator}"))
            taken = nodes[-1].output[0]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width, 1]),
        helper.make_tensor_value_info(taken, TensorProto.FLOAT, ["n", width]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, file)
    return file


def dynamic(fp32: Path, without: Sequence[str] = ()) -> Path:
    file = fp32.with_name("int8.onnx")
    with graph.quiet_tools():
        quantize_dynamic(fp32, file, weight_type=QuantType.QInt8, nodes_to_exclude=list(without))
    return file


def static(fp32: Path) -> Path:
    file, width = fp32.with_name("int8.onnx"), onnx.load(fp32).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    feeds = {"x": RNG.normal(size=(64, width, 1)).astype(np.float32)}
    graph.quantize(fp32, file, feeds, "minmax", per_channel=True, signed=False)
    return file


def measured(folder: Path, inputs: Mapping[str, np.ndarray], **files: Path) -> dict[str, Any]:
    """The profile of each file, as the benchmark takes it."""
    builds = {}
    for name, file in files.items():
        builds[name] = folder / name
        builds[name].mkdir()
        card = {"file": str(file), "session": ONNX_SESSION}
        (builds[name] / "build.json").write_text(json.dumps(card), "utf-8")
    return profiles.measure(builds, 1, inputs)


def why(int8: Path, fp32: Path, rows: int, isa: Sequence[str] = X86) -> list[str]:
    """Its reasons as if it had been slower than fp32."""
    width = onnx.load(fp32).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    inputs = {"x": RNG.normal(size=(rows, width, 1)).astype(np.float32)}
    found = measured(fp32.parent, inputs, int8=int8, fp32=fp32)
    cert = certificate.of_onnx(int8.read_bytes(), 1, {"x": inputs["x"][:1]})
    told = reasons.told(cert, found["int8"], found["fp32"], isa, 0.9, 0.9, rows)
    assert told is not None
    json.dumps(told, allow_nan=False)
    words: list[str] = told["reasons"]
    assert len(words) <= reasons.MOST
    return words


def test_a_layer_left_in_floats_is_named(tmp_path: Path) -> None:
    fp32 = chain(tmp_path / "fp32.onnx", 256, 3)
    (first, *_) = why(dynamic(fp32, ["layer1"]), fp32, 64)
    assert first.startswith("layer1 (MatMul, 33.3% of the multiply-adds) computes in floats (")
    assert first.endswith("% of the time)")


def test_floats_after_quantizers_are_told_as_such(tmp_path: Path) -> None:
    """With something between the quantizers and the product no integer kernel takes it."""
    fp32 = chain(tmp_path / "fp32.onnx", 256, 3)
    model = onnx.load(static(fp32))
    for node in [node for node in model.graph.node if node.op_type == "MatMul"]:
        planted = helper.make_node("Sin", [node.input[0]], [f"{node.name}_sin"])
        model.graph.node.insert(list(model.graph.node).index(node), planted)
        node.input[0] = planted.output[0]
    onnx.save(model, tmp_path / "int8.onnx")
    words = why(tmp_path / "int8.onnx", fp32, 64)
    assert any(" compute in floats " in text and " DequantizeLinear" in text for text in words), words


def test_quantizers_that_cost_more_than_they_bring_are_named(tmp_path: Path) -> None:
    """Layers of 8 by 8 between many quantizers of 4096 rows."""
    fp32 = chain(tmp_path / "fp32.onnx", 8, 3, between=["Sin"])
    words = why(static(fp32), fp32, 4096)
    assert any(text.startswith("converting to integers and back: QuantizeLinear") for text in words), words


def test_small_layers_are_told_with_their_size(tmp_path: Path) -> None:
    fp32 = chain(tmp_path / "fp32.onnx", 8, 20)
    words = why(dynamic(fp32), fp32, 1)
    (text,) = [text for text in words if text.startswith("the layers are small")]
    assert "half of them at most 64 multiply-adds a call: the integer kernels take" in text
    assert "20 of them find the range of their activations and quantize them at every call" in text


@pytest.mark.skipif(
    not reasons.UNSIGNED_ISA & set(host.describe()["isa"]) or bool(reasons.SIGNED_ISA & set(host.describe()["isa"])),
    reason="this processor multiplies signed by signed",
)
def test_signed_activations_are_told_where_the_processor_has_no_instruction_for_them(tmp_path: Path) -> None:
    fp32 = chain(tmp_path / "fp32.onnx", 256, 3)
    words = why(signed_products(fp32), fp32, 64, host.describe()["isa"])
    assert words[0].startswith("activations of 3 layers are signed and this processor has no instruction"), words


def signed_products(fp32: Path) -> Path:
    """The chain with QLinearMatMul of int8 by int8: between quantizers ONNX Runtime would make it unsigned on x86."""
    model, file = onnx.load(fp32), fp32.with_name("int8.onnx")
    zero, scale = np.array(0, np.int8), np.array(0.05, np.float32)
    tensors = {"zero": zero, "scale": scale}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "MatMul":
            nodes.append(node)
            continue
        (weights,) = [numpy_helper.to_array(w) for w in model.graph.initializer if w.name == node.input[1]]
        tensors[f"{node.name}_q"] = np.clip(weights / 0.05, -127, 127).round().astype(np.int8)
        taken, given = f"{node.name}_in", f"{node.name}_out"
        nodes.append(helper.make_node("QuantizeLinear", [node.input[0], "scale", "zero"], [taken]))
        operands = [taken, "scale", "zero", f"{node.name}_q", "scale", "zero", "scale", "zero"]
        nodes.append(helper.make_node("QLinearMatMul", operands, [given], node.name))
        nodes.append(helper.make_node("DequantizeLinear", [given, "scale", "zero"], [node.output[0]]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(tensor, name) for name, tensor in tensors.items())
    onnx.save(model, file)
    return file


# --- from figures, where a clock could not plant it surely ---------------------------------------------


def layer(name: str, integer: bool = True, **more: Any) -> dict[str, Any]:
    kernel = "QLinearConv" if integer else "FusedConv"
    known = {"name": name, "node": name, "op": "Conv", "kernel": kernel, "multiply_adds": 10**7, "weights": True}
    return known | {"integer": integer, "activations": "uint8", "between": "", "outputs": [f"{name}_out"]} | more


def figures(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"integer_multiply_add_share": 0.5, "integer_weight_share": 0.5, "layers": list(layers)}


def test_reasons_come_by_what_they_cost_and_only_if_they_do() -> None:
    layers = [layer("a"), layer("b", integer=False)]
    mine = {
        "layers": {"a": 2.0, "b_out_nchwc": 1.0},
        "others": {"QuantizeLinear": 0.2, "ReorderOutput": 0.8, "Transpose": 0.1, "QLinearAdd": 1.5, "Relu": 0.01},
    }
    fp32 = {"layers": {"a": 2.5, "b": 1.0}, "others": {"Transpose": 0.3, "Relu": 0.01}}
    told = reasons.told(figures(layers), mine, fp32, X86, 0.8, 1.2, 1)
    assert told is not None and [text.partition(" (")[0] for text in told["reasons"]] == [
        "other operators take longer than in fp32, which may fuse them: QLinearAdd",
        "b",
        "changing the layout: ReorderOutput",
    ]
    assert told["integer_time_share"] == pytest.approx(2 / 3)
    shares = {found["name"]: found["time_share"] for found in told["layers"]}
    assert shares == pytest.approx({"a": 2 / 5.61, "b": 1 / 5.61})
    assert set(told["layers"][0]) == {"name", "op", "kernel", "multiply_adds", "weights", "integer", "time_share"}


def test_what_costs_little_is_no_reason() -> None:
    mine = {"layers": {"a": 10.0}, "others": {"QuantizeLinear": 0.2}}
    fp32 = {"layers": {"a": 10.0}, "others": {}}
    assert reasons.reasons([layer("a")], mine, fp32, X86, 1) == []


@pytest.mark.parametrize(
    ("isa", "signed"),
    [
        (X86, True),
        ([*X86, "amx_int8"], True),
        ([*X86, "avx_vnni_int8"], False),
        (["asimddp"], False),
        (["i8mm", "asimddp"], False),
        ([], False),
    ],
)
def test_signed_activations_are_blamed_by_instruction_set(isa: list[str], signed: bool) -> None:
    mine, fp32 = {"layers": {"a": 10.0}, "others": {}}, {"layers": {"a": 5.0}, "others": {}}
    (text,) = reasons.reasons([layer("a", activations="int8")], mine, fp32, isa, 1)
    assert text.startswith("activations of 1 layers are signed") == signed
    assert "the integer kernels take 10 ms, the float ones of fp32 5" in text


def test_no_reason_is_given_for_what_is_faster() -> None:
    mine, fp32 = {"layers": {"a": 1.0}, "others": {}}, {"layers": {"a": 5.0}, "others": {}}
    told = reasons.told(figures([layer("a")]), mine, fp32, ["sve", *X86], 4.0, 9.0, 1)
    assert told is not None and told["reasons"] == [] and told["isa"] == ["avx512_vnni", "avx512f", "avx2"]


def test_a_slow_variant_is_not_blamed_on_int8() -> None:
    told = reasons.told(figures([layer("a")]), None, None, X86, 2.0, 0.5, 1)
    assert told is not None and told["reasons"] == [
        "the variant is slower, not INT8: 2.00 times as fast as its own fp32, "
        "which is 0.25 times as fast as the reference"
    ]


def test_without_a_profile_there_are_no_times_and_only_what_the_graph_shows() -> None:
    layers = [layer("a"), layer("b", integer=False), layer("c", integer=False, multiply_adds=None)]
    told = reasons.told(figures(layers), None, None, [], 0.5, 0.5, 1)
    assert told is not None and told["integer_time_share"] is None
    assert {found["time_share"] for found in told["layers"]} == {None}
    assert told["reasons"] == ["2 Conv layers compute in floats: b ..., 50.0% of the multiply-adds"]


def test_what_is_below_the_clock_has_no_times() -> None:
    nothing = {"layers": {"a": 0.0}, "others": {"Relu": 0.0}}
    told = reasons.told(figures([layer("a")]), nothing, nothing, X86, 0.9, 0.9, 1)
    assert told is not None and (told["integer_time_share"], told["reasons"]) == (None, [])


def test_a_build_that_claims_no_int8_has_no_certificate() -> None:
    assert reasons.told(None, None, None, X86, 0.5, 0.5, 1) is None
