"""The INT8 certificate: true builds pass with the shares counted by hand, planted fakes are refused every time."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from components import build, certificate, graph, multiply_adds, profiles, reasons, runtime
from components.cell import Record
from components.data import Spec, read_rows
from components.errors import Refused
from components.make import multiply_adds as by_torch
from components.params import OnnxFp32, OnnxInt8Dynamic, OnnxInt8Static, Parity, TensorRt
from components.session import ONNX_SESSION
from components.targets import TARGETS
from tests.contracts.test_members import TEXTS, TINY, tiny

DYNAMIC = OnnxInt8Dynamic(kind="onnx_int8_dynamic", per_channel=True, min_integer_share=1.0)
STATIC = OnnxInt8Static(kind="onnx_int8_static", per_channel=True, calibration="minmax", rows=32, min_integer_share=1.0)
Int8 = OnnxInt8Dynamic | OnnxInt8Static
BOTH: tuple[Int8, ...] = (DYNAMIC, STATIC)


@dataclass(frozen=True)
class Made:
    """A family's exported graph, and INT8 builds of it with some layers left out."""

    family: str
    exported: Path
    rows: Mapping[str, np.ndarray]
    by_torch: int

    @property
    def one(self) -> Mapping[str, np.ndarray]:
        return {name: values[:1] for name, values in self.rows.items()}

    def layers(self, target: Int8) -> list[str]:
        """Names of the layers with weights that the target quantizes."""
        model = onnx.load(self.exported)
        fixed = multiply_adds.constants(model)
        wanted = certificate.claimed(target)
        return [node.name for node in model.graph.node if node.op_type in wanted and node.input[1] in fixed]

    def build(self, target: Int8, folder: Path, without: Sequence[str] = ()) -> Path:
        """The folder of a build that leaves these nodes in floats."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "model.onnx"
        if isinstance(target, OnnxInt8Dynamic):
            options: dict[str, Any] = {"op_types_to_quantize": ["Gemm", "MatMul"], "weight_type": QuantType.QInt8}
            # It makes MatMul of Gemm under another name before it looks at what to leave out.
            out = [*without, *(f"{name}_MatMul" for name in without)]
            with graph.quiet_tools():
                quantize_dynamic(self.exported, file, per_channel=True, nodes_to_exclude=out, **options)
            return folder
        honest = graph._left_in_floats
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "_left_in_floats", lambda model: [*honest(model), *without])
            graph.quantize(self.exported, file, self.rows, "minmax", per_channel=True, signed=False)
        return folder

    def certify(self, target: Int8, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = certificate.certify(target, folder, self.exported, self.one, 1)["certificate"]
        return found


def out_of_reach(file: Path, name: str) -> None:
    """Put a product with 1.5 before a layer: between quantizers ONNX Runtime would quantize it by itself."""
    model = onnx.load(file)
    (at,) = [i for i, node in enumerate(model.graph.node) if node.name == name]
    taken = model.graph.node[at].input[0]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.5, np.float32), "planted_factor"))
    model.graph.node[at].input[0] = "planted"
    model.graph.node.insert(at, helper.make_node("Mul", [taken, "planted_factor"], ["planted"], "planted"))
    onnx.save(model, file)


@pytest.fixture(scope="module")
def make(prepared: Path, prepared_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    @functools.cache
    def made(family: str) -> Made:
        data = prepared_texts if family in TEXTS else prepared
        spec = Spec.read(data)
        rows = read_rows(data, "calibration", spec)
        model, file = tiny(family, spec), tmp_path_factory.mktemp(family) / "model.onnx"
        counted = by_torch(model, rows.head(1))
        build.export(model, rows.inputs, file)
        return Made(family, file, rows.inputs, counted)

    return made


# --- what is true ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", BOTH, ids=lambda target: str(target.kind))
@pytest.mark.parametrize("family", TINY)
def test_every_true_build_is_certified(family: str, target: Int8, make: Callable[[str], Made], tmp_path: Path) -> None:
    """The graph's, the build's and torch's counts agree, and every layer that the target quantizes is in integers."""
    made = make(family)
    found = made.certify(target, made.build(target, tmp_path))
    assert sum(layer["multiply_adds"] for layer in found["layers"]) == made.by_torch
    # Of texts of any length the graph alone cannot tell: it is run.
    assert multiply_adds.of_row(onnx.load(made.exported)) == (None if family in TEXTS else made.by_torch)
    mine = [layer for layer in found["layers"] if layer["weights"] and layer["op"] in certificate.claimed(target)]
    assert mine and all(layer["integer"] for layer in mine)
    assert sorted(layer["name"] for layer in mine) == sorted(made.layers(target))
    integer = sum(layer["multiply_adds"] for layer in mine)
    assert found["integer_multiply_add_share"] == pytest.approx(integer / made.by_torch)


def test_the_shares_of_attention_by_hand(make: Callable[[str], Made], tmp_path: Path) -> None:
    """5 tokens of 16 numbers, 2 layers; attention's products are 2 x 5 x 5 x 16 of each and stay in floats."""
    layers = 2 * (4 * 5 * 16 * 16 + 2 * 5 * 16 * 32)
    patches, attention, classifier = 4 * 16 * 16, 2 * 2 * 5 * 5 * 16, 16 * 10
    total = patches + layers + attention + classifier
    made = make("vit")
    dynamic = made.certify(DYNAMIC, made.build(DYNAMIC, tmp_path / "dynamic"))
    assert dynamic["integer_multiply_add_share"] == pytest.approx((layers + classifier) / total)
    assert dynamic["integer_weight_share"] == pytest.approx((layers + classifier) / (total - attention))
    static = made.certify(STATIC, made.build(STATIC, tmp_path / "static"))
    assert static["integer_multiply_add_share"] == pytest.approx((total - attention) / total)
    assert static["integer_weight_share"] == 1.0


def test_layers_are_named_after_their_modules(make: Callable[[str], Made]) -> None:
    assert make("mlp").layers(STATIC) == ["module.1", "module.4", "module.7"]
    assert "stages.0.0.inside.3" in make("resnet").layers(STATIC)
    names = make("vit").layers(STATIC)
    assert {"vit.layers.1.attention.q_proj", "vit.layers.0.mlp.fc2", "classifier"} <= set(names)


def test_a_convolution_in_groups_counts_what_it_multiplies(tmp_path: Path) -> None:
    """Also in a layout that pads channels, 6 here, to the width of the processor's vectors."""
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(size=(6, 1, 3, 3)).astype(np.float32), "w")
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=3, pads=[1, 1, 1, 1])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, 8, 8])],
            [weights],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    rows = {"x": rng.normal(size=(8, 3, 8, 8)).astype(np.float32)}
    onnx.save(model, tmp_path / "exported.onnx")
    graph.quantize(tmp_path / "exported.onnx", tmp_path / "int8.onnx", rows, "minmax", per_channel=True, signed=False)
    for name, integer in (("exported", False), ("int8", True)):
        (layer,) = certificate.of_onnx((tmp_path / f"{name}.onnx").read_bytes(), 1, {"x": rows["x"][:1]})["layers"]
        assert (layer["multiply_adds"], layer["integer"]) == (6 * 64 * 9, integer)


# --- what is not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", BOTH, ids=lambda target: str(target.kind))
@pytest.mark.parametrize("family", ["mlp", "resnet", "vit"])
def test_whichever_layer_is_left_out_is_named(
    family: str, target: Int8, make: Callable[[str], Made], tmp_path: Path
) -> None:
    made = make(family)
    for i, name in enumerate(made.layers(target)):
        folder = made.build(target, tmp_path / str(i), [name])
        if target is STATIC:
            out_of_reach(folder / "model.onnx", name)
        with pytest.raises(Refused, match=r"^claims INT8, but \d+\.\d% of the multiply-adds .*must be 100%") as said:
            made.certify(target, folder)
        assert f": {name} (" in str(said.value) and "computes in floats" in str(said.value)
        allowed = target.model_copy(update={"min_integer_share": 0.0})
        left = [layer["name"] for layer in made.certify(allowed, folder)["layers"] if not layer["integer"]]
        assert name in left


def test_a_layer_that_onnx_runtime_quantizes_by_itself_is_no_fake(make: Callable[[str], Made], tmp_path: Path) -> None:
    """It does so for float weights between quantizers. What counts is what runs, not what the file says."""
    made = make("resnet")
    folder = made.build(STATIC, tmp_path, ["stages.0.0.inside.3"])
    graph = onnx.load(folder / "model.onnx").graph
    (node,) = [n for n in graph.node if n.name == "stages.0.0.inside.3"]
    (weights,) = [tensor for tensor in graph.initializer if tensor.name == node.input[1]]
    assert weights.data_type == onnx.TensorProto.FLOAT  # and no quantizer behind it
    (layer,) = [n for n in made.certify(STATIC, folder)["layers"] if n["name"] == "stages.0.0.inside.3"]
    assert (layer["kernel"], layer["integer"]) == ("QLinearConv", True)


@given(data=st.data())
@settings(max_examples=15)
def test_any_layers_left_out_are_refused(
    data: st.DataObject, make: Callable[[str], Made], tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = make("vit")
    names = made.layers(DYNAMIC)
    without = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    folder = made.build(DYNAMIC, tmp_path_factory.mktemp("fake"), without)
    with pytest.raises(Refused) as said:
        made.certify(DYNAMIC, folder)
    assert sum(f"{name} (" in str(said.value) for name in without) == min(len(without), certificate.NAMED)
    assert (f"so do {len(without) - 3} more" in str(said.value)) == (len(without) > 3)


@pytest.mark.parametrize("family", TINY)
def test_the_fp32_file_is_no_int8_build(family: str, make: Callable[[str], Made], tmp_path: Path) -> None:
    made = make(family)
    shutil.copyfile(made.exported, tmp_path / "model.onnx")
    for target in BOTH:
        with pytest.raises(Refused, match=r"claims INT8, but 0\.0% of") as said:
            made.certify(target, tmp_path)
        assert any(f"{name} (" in str(said.value) for name in made.layers(target))


def float_weights_only(model: onnx.ModelProto) -> None:
    """Take the quantizers of activations out: int8 weights are dequantized and multiplied in floats."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    short: dict[str, str] = {}
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] not in fixed:
            short[node.output[0]] = made[node.input[0]].input[0]
            model.graph.node.remove(node)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = short.get(name, name)


def sixteen_bits(model: onnx.ModelProto) -> None:
    """Quantize activations to 16 bits: no integer kernel takes them, floats stand between the quantizers."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint16), "zero"))
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and node.input[0] not in fixed:
            node.input[2:] = ["zero"]
    model.opset_import[0].version = 21


FAKES = {"int8 weights alone": float_weights_only, "16-bit activations": sixteen_bits}


@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("family", ["mlp", "resnet", "vit"])
def test_quantizers_around_float_layers_are_no_int8_build(
    family: str, fake: str, make: Callable[[str], Made], tmp_path: Path
) -> None:
    made = make(family)
    file = made.build(STATIC, tmp_path) / "model.onnx"
    model = onnx.load(file)
    FAKES[fake](model)
    onnx.save(model, file)
    with pytest.raises(Refused, match=r"claims INT8, but 0\.0% of") as said:
        made.certify(STATIC, tmp_path)
    assert "DequantizeLinear" in said.value.args[0] or "but for its weights (MatMulNBits)" in said.value.args[0]


def test_a_layer_in_a_kernel_that_is_not_known_counts_as_float(make: Callable[[str], Made], tmp_path: Path) -> None:
    """What the exported graph asks for is owed: a layer that the count of the build does not see is missing."""
    made = make("mlp")
    folder = made.build(STATIC, tmp_path)
    found = made.certify(STATIC, folder)
    found["layers"] = found["layers"][1:]
    owed = certificate.promised(onnx.load(made.exported), certificate.claimed(STATIC))
    with pytest.raises(Refused, match="the rest is in kernels that are none of these"):
        certificate.gate(STATIC, found, owed)


def test_what_cannot_be_counted_before_it_runs_is_owed_all_the_same(
    make: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Swin, whose windows ONNX's inference does not see through."""

    def unknown(model: onnx.ModelProto) -> dict[str, int]:
        raise ValueError("planted")

    monkeypatch.setattr(multiply_adds, "by_node", unknown)
    made = make("mlp")
    true, fake = made.build(STATIC, tmp_path / "true"), made.build(STATIC, tmp_path / "fake", ["module.4"])
    assert made.certify(STATIC, true)["integer_weight_share"] == 1.0
    with pytest.raises(Refused, match=r"module\.4 \(Gemm, "):
        made.certify(STATIC, fake)


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(Refused, match="onnx_int8_dynamic quantizes Gemm, MatMul with weights: this model has none"):
        certificate.gate(DYNAMIC, {"layers": []}, 0)


def test_the_stage_refuses_a_fake_whoever_made_it(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.components.test_build import TRAINED, write_host
    from tests.components.test_build import make as save

    def fake(exported: Path, params: Any, context: Any, out: Path) -> dict[str, Any]:
        shutil.copyfile(exported, out / "model.onnx")
        return {"integer_nodes": {"MatMulInteger": 3}}

    monkeypatch.setattr(TARGETS["onnx_int8_dynamic"], "run", fake)
    parity = Parity(
        batch_sizes=[1], rows=8, max_export_difference=1e-3, min_export_agreement=1.0, min_build_agreement=0.5
    )
    (tmp_path / "out").mkdir()
    targets = {"fp32": OnnxFp32(kind="onnx_fp32"), "dynamic": DYNAMIC, "static": STATIC}
    model = save(tmp_path / "model", "mlp", spec)
    build.run(TRAINED, targets, parity, 1, prepared, model, write_host(tmp_path), tmp_path / "out", None)
    record = Record.read(tmp_path / "out" / "dynamic")
    assert record.status == "refused" and record.reason.startswith("claims INT8, but 0.0% of the multiply-adds")
    true = Record.read(tmp_path / "out" / "static").figures["certificate"]
    assert true["integer_multiply_add_share"] == 1.0
    json.dumps(true, allow_nan=False)
    assert "certificate" not in Record.read(tmp_path / "out" / "fp32").figures
    assert Record.read(tmp_path / "out" / "export").figures["multiply_adds"] == 64 * 32 + 32 * 16 + 16 * 10


# --- engines --------------------------------------------------------------------------------------

TRT_INT8 = TensorRt(kind="tensorrt", precision="int8", batch_sizes=[1, 4, 8], rows=32)
INT8_FORMAT = "Thirty-two wide channel vectorized row major Int8 format."


def engine_layer(text: str, **more: Any) -> dict[str, Any]:
    """A layer as the developer guide of TensorRT shows the inspector's answer; never seen from a GPU here."""
    return {
        "Name": "res4_0_branch2a + relu",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [16, 512, 28, 28], "Format/Datatype": text}],
        "Outputs": [{"Name": "y", "Dimensions": [16, 256, 28, 28], "Format/Datatype": text}],
        "ParameterType": "Convolution",
        "Kernel": [1, 1],
        "OutMaps": 256,
        "Groups": 1,
        "Weights": {"Type": "Int8", "Count": 131072},
        "Bias": {"Type": "Float", "Count": 256},
        "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
        **more,
    }


def certify_engine(layers: list[Any], folder: Path) -> dict[str, Any]:
    (folder / "layers.json").write_text(json.dumps(layers), "utf-8")
    found: dict[str, Any] = certificate.certify(TRT_INT8, folder, folder / "none", {}, 1)["certificate"]
    return found


def test_an_engine_is_certified_by_its_inspector(tmp_path: Path) -> None:
    half = "Sixteen wide channel vectorized row major FP16 format"
    reformat = {"Name": "copy", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": half}], "Outputs": []}
    found = certify_engine(
        [reformat, engine_layer(INT8_FORMAT), engine_layer(half, Name="left"), "name only"], tmp_path
    )
    assert [(layer["name"], layer["integer"]) for layer in found["layers"]] == [
        ("res4_0_branch2a + relu", True),
        ("left", False),
    ]
    assert {layer["multiply_adds"] for layer in found["layers"]} == {512 * 256 * 28 * 28}
    assert found["integer_multiply_add_share"] == 0.5


def test_an_engine_whose_products_tell_no_size_has_no_share(tmp_path: Path) -> None:
    gemm = {"Name": "fc", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "Int8"}], "Outputs": []}
    found = certify_engine([engine_layer(INT8_FORMAT), gemm], tmp_path)
    assert found["integer_multiply_add_share"] is None and len(found["layers"]) == 2


def test_an_engine_in_floats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no layer of the engine takes an int8 input: res4_0_branch2a \+ relu takes row"):
        certify_engine([engine_layer("Row major linear FP16 format")], tmp_path)


# --- times ----------------------------------------------------------------------------------------


@pytest.fixture
def measured(make: Callable[[str], Made], spec: Spec, tmp_path: Path) -> Iterator[tuple[Path, Made]]:
    made = make("resnet")
    for name, target in (("int8", STATIC), ("fp32", None)):
        folder = tmp_path / "builds" / "base" / name
        folder.mkdir(parents=True)
        if target:
            made.build(target, folder)
        else:
            shutil.copyfile(made.exported, folder / "model.onnx")
        runtime.write_build(folder, "any", "onnxruntime", "model.onnx", ONNX_SESSION, spec)
    yield tmp_path, made


def test_the_profile_has_a_time_for_every_layer_and_leaves_nothing_behind(
    measured: tuple[Path, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = measured
    targets = {"int8": STATIC, "fp32": OnnxFp32(kind="onnx_fp32")}
    (folder / "cwd").mkdir()
    (folder / "tmp").mkdir()
    monkeypatch.chdir(folder / "cwd")
    monkeypatch.setattr(profiles.tempfile, "tempdir", str(folder / "tmp"))
    out = folder / "certificates.json"
    cells = ["base/int8", "base/fp32"]
    certificate.write_measured(out, cells, targets, folder / "builds", 1, {1: made.one, 8: made.rows})
    assert not list((folder / "cwd").iterdir()) and not list((folder / "tmp").iterdir())
    found = json.loads(out.read_text())
    assert set(found) == {"base/int8", "base/fp32"} and set(found["base/int8"]) == {"1", "8"}
    layers = made.certify(STATIC, folder / "builds/base/int8")["layers"]
    assert {layer["node"] for layer in layers} == set(found["base/int8"]["8"]["layers"])
    assert found["base/int8"]["8"]["others"].keys() >= {"QuantizeLinear", "QLinearAdd"}
    for cell in found.values():
        assert sum(cell["8"]["layers"].values()) > sum(cell["1"]["layers"].values()) > 0


def test_float_convolutions_are_found_in_the_profile_under_the_names_of_another_layout(
    measured: tuple[Path, Made],
) -> None:
    """Alone, with an activation and with a sum fused into them; every time in the profile belongs to one layer."""
    folder, made = measured
    fp32 = folder / "builds/base/fp32"
    layers = certificate.of_onnx((fp32 / "model.onnx").read_bytes(), 1, made.one)["layers"]
    profile = profiles.measure({"fp32": fp32}, 1, made.one)["fp32"]
    timed = reasons.layer_times(layers, profile)
    assert set(timed) == {layer["node"] for layer in layers} and len(timed) == len(profile["layers"])
    assert sum(timed.values()) == pytest.approx(sum(profile["layers"].values()))


def test_without_an_int8_build_nothing_is_profiled(tmp_path: Path) -> None:
    out = tmp_path / "certificates.json"
    certificate.write_measured(out, ["base/fp32"], {"fp32": OnnxFp32(kind="onnx_fp32")}, tmp_path, 1, {})
    assert json.loads(out.read_text()) == {}
