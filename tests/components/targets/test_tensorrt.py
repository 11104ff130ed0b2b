"""TensorRT's calls, checked against the real bindings' signatures: they install and tell them without a GPU."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from components import assemble, build, graph, parity, runtime, session
from components.data import Spec, read_rows
from components.errors import NotMeasured, Refused
from components.params import Mlp, TensorRt, Vit
from components.runtimes.tensorrt import EngineSession
from components.targets import tensorrt

FP16 = TensorRt(kind="tensorrt", precision="fp16", batch_sizes=[1, 4, 8], rows=32)
INT8 = TensorRt(kind="tensorrt", precision="int8", batch_sizes=[1, 4, 8], rows=32)
SIZES = {"patch_size": 4, "hidden_size": 32, "layers": 1, "heads": 2, "head_dim": 16, "intermediate_size": 64}
MODELS: dict[str, Mlp | Vit] = {
    "mlp": Mlp(family="mlp", hidden=[32], dropout=0.0),
    "vit": Vit(family="vit", dropout=0.0, **SIZES),  # type: ignore[arg-type]
}


@pytest.fixture(scope="module", params=sorted(MODELS))
def exported(
    request: pytest.FixtureRequest, prepared: Path, spec: Spec, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("export") / "model.onnx"
    build.export(assemble.create(MODELS[request.param], spec), read_rows(prepared, "validation", spec).inputs, out)
    return out


# --- the graph that TensorRT is given -------------------------------------------------------------


@pytest.mark.parametrize(("params", "difference"), [(FP16, 0.01), (INT8, 0.1)])
def test_the_typed_graph_is_valid_and_answers_like_the_export(
    exported: Path, prepared: Path, spec: Spec, params: TensorRt, difference: float, tmp_path: Path
) -> None:
    content = tensorrt.typed(exported, params, graph.context(prepared, 2, tmp_path))
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    rows = read_rows(prepared, "validation", spec).inputs
    answers = [session.OnnxSession(file, {}, 2, spec, "test").run(rows) for file in (exported.read_bytes(), content)]
    assert 0 < parity.compare(*answers)["max_logit_difference"] < difference


def test_int8_is_explicit_and_symmetric(exported: Path, prepared: Path, tmp_path: Path) -> None:
    """Zero points 0, int8 on both sides, weights per channel, float biases: TensorRT takes nothing else."""
    model = onnx.load_from_string(tensorrt.typed(exported, INT8, graph.context(prepared, 2, tmp_path)))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(nodes) >= 6
    for node in nodes:
        zero = tensors[node.input[2]]
        assert zero.data_type == TensorProto.INT8 and not numpy_helper.to_array(zero).any()
    made_by = {name: node for node in model.graph.node for name in node.output}
    layers = [
        node
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and made_by[node.input[1]].op_type == "DequantizeLinear"
    ]
    weights = {tensor.name for tensor in onnx.load(exported).graph.initializer if len(tensor.dims) > 1}
    wanted = [node for node in onnx.load(exported).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(layers) == len([node for node in wanted if node.input[1] in weights]) >= 2
    for node in layers:
        assert made_by[node.input[0]].op_type == "DequantizeLinear"
        assert len(tensors[made_by[node.input[1]].input[1]].dims) == 1
        assert all(tensors[bias].data_type == TensorProto.FLOAT16 for bias in node.input[2:])


def test_layers_that_take_int8_are_counted() -> None:
    def layer(kind: str, text: str) -> dict[str, Any]:
        return {"Name": kind, "LayerType": kind, "Inputs": [{"Name": "x", "Format/Datatype": text}], "Outputs": []}

    layers = [layer("gemm", "Int8"), layer("gemm", "Row major linear INT8 format"), layer("kgen", "Half"), "name only"]
    assert tensorrt.count_layers(layers) == {"integer_nodes": {"gemm": 2}, "layers": 4}


# --- the calls, against the bindings' own signatures ----------------------------------------------

# Run in a process of its own: the bindings want libraries that come with the GPU; empty ones let them load.
DUMP = """
import ctypes, enum, json, os, sys
for name in sys.argv[1:]:
    ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
sys.setdlopenflags(os.RTLD_LAZY)
import tensorrt_bindings as trt
api = {"__version__": trt.__version__}
for name, item in vars(trt).items():
    if isinstance(item, type):
        members = {}
        for attribute in dir(item):
            value = getattr(item, attribute)
            doc = (value.fget.__doc__ if isinstance(value, property) and value.fget else value.__doc__) or ""
            members[attribute] = ("property: " if isinstance(value, property) else "") + doc
        api[name] = {"members": members, "enum": {k: int(v) for k, v in getattr(item, "__members__", {}).items()}}
api["Severity"] = {"members": {}, "enum": {k: int(v) for k, v in trt.ILogger.Severity.__members__.items()}}
print(json.dumps(api)); sys.stdout.flush(); os._exit(0)
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Classes of the installed bindings: their members with docstrings, enums with their values."""
    found = importlib.util.find_spec("tensorrt_bindings")
    if found is None or found.origin is None:
        pytest.skip("no TensorRT bindings here: pip install --no-deps tensorrt-cu13-bindings (1.3 MB, needs no GPU)")
    library = Path(found.origin).parent / "tensorrt.so"
    content = library.read_bytes()
    needed = sorted(set(re.findall(rb"libnv\w+\.so\.\d+", content)))
    stubs = []
    if importlib.util.find_spec("tensorrt_libs") is None and ctypes.util.find_library("nvinfer") is None:
        compiler = shutil.which("cc") or pytest.skip("no C compiler to make empty libraries for the bindings")
        names = set(
            re.findall(rb"\0((?:create|get|init)[A-Z]\w*(?:_INTERNAL|Version|Registry|Plugins))(?=\0)", content)
        )
        source = "".join(f"void *{name.decode()}(void) {{ return 0; }}\n" for name in sorted(names))
        folder = tmp_path_factory.mktemp("stubs")
        for name in needed:
            stubs.append(folder / name.decode())
            options = ["-shared", "-fPIC", "-x", "c", "-", "-o", stubs[-1], f"-Wl,-soname,{name.decode()}"]
            subprocess.run([compiler, *options], input=source, text=True, check=True)
    done = subprocess.run([sys.executable, "-c", DUMP, *stubs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def split(arguments: str) -> list[str]:
    """Arguments of a signature, split at commas outside brackets."""
    parts, depth = [""], 0
    for letter in arguments:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


class Double:
    """An object of one of the bindings' classes: knows what the real one has, and what calls take and answer."""

    def __init__(self, api: dict[str, Any], kind: str, told: list[str], answers: dict[str, Any]) -> None:
        self.__dict__.update(_api=api, _kind=kind, _told=told, _answers=answers)

    def _doc(self, name: str) -> str:
        members = self._api[self._kind]["members"]
        assert name in members, f"TensorRT {self._api['__version__']}: {self._kind} has no {name}"
        doc: str = members[name]
        return doc

    def __setattr__(self, name: str, value: Any) -> None:
        assert self._doc(name).startswith("property"), f"{self._kind}.{name} cannot be set"
        self._told.append(f"{self._kind}.{name}")

    def __getattr__(self, name: str) -> Any:
        doc = self._doc(name)
        self._told.append(f"{self._kind}.{name}")
        if doc.startswith("property"):
            return self._answers[f"{self._kind}.{name}"]
        return lambda *given, **named: self._call(name, doc, given, named)

    def _call(self, name: str, doc: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        signatures = re.findall(rf"{name}\((.*)\) -> (\S+)", doc)
        assert signatures, f"{self._kind}.{name} tells no signature: {doc[:100]!r}"
        for arguments, answer in signatures:
            wanted = split(arguments)[1:]
            names = [argument.partition(":")[0] for argument in wanted]
            required = [argument.partition(":")[0] for argument in wanted if "=" not in argument]
            if len(given) <= len(names) and set(required) <= {*names[: len(given)], *named} <= set(names):
                return self._answer(name, answer, given)
        raise AssertionError(f"{self._kind}.{name}{given} fits none of {signatures}")

    def _answer(self, name: str, answer: str, given: tuple[Any, ...]) -> Any:
        if (fixed := self._answers.get(f"{self._kind}.{name}")) is not None:
            return fixed(*given) if callable(fixed) else fixed
        kind = answer.rpartition(".")[2]
        if kind in self._api:
            return Double(self._api, kind, self._told, self._answers)
        return {"bool": True, "int": 0, "None": None, "str": ""}[kind]

    def __bytes__(self) -> bytes:
        assert "buffer" in self._api[self._kind]["members"]["__doc__"], f"{self._kind} is no buffer"
        return b"an engine"


class Module:
    """The module `tensorrt`, made of the bindings' own description."""

    def __init__(self, api: dict[str, Any], **answers: Any) -> None:
        self.told: list[str] = []
        self._api, self._answers, self.__version__ = api, answers, api["__version__"]

    def __getattr__(self, name: str) -> Any:
        assert name in self._api, f"TensorRT {self.__version__} has no {name}"
        if name in ("ILogger", "Logger"):
            # A member for each the real one has; subclassed, as the target does.
            members = dict.fromkeys(("INTERNAL_ERROR", "ERROR", "WARNING"))
            assert set(members) <= set(self._api["Severity"]["enum"]) and "log" in self._api[name]["members"]
            severity = SimpleNamespace(**self._api["Severity"]["enum"])
            return type(name, (), {"Severity": severity, "WARNING": 2, "__init__": lambda *_: None})
        if values := self._api[name]["enum"]:
            return SimpleNamespace(**values)

        def create(*given: Any) -> Double:
            double = Double(self._api, name, self.told, self._answers)
            double._call("__init__", double._doc("__init__"), given, {})
            return double

        return create


LAYERS = json.dumps({"Layers": [{"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Int8"}], "Outputs": []}]})


def test_the_build_calls_what_the_bindings_have(
    api: dict[str, Any], exported: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "EngineInspector.get_engine_information": LAYERS,
        "OnnxParser.parse": lambda content: bool(onnx.load_from_string(content).graph.node),
    }
    trt = Module(api, **answers)
    monkeypatch.setattr(tensorrt, "libraries", lambda: (trt, None))
    monkeypatch.setattr(tensorrt, "gpu", lambda _: "Some GPU (compute 9.0)")
    for _ in range(2):  # the second time with a timing cache
        figures = tensorrt.run(exported, INT8, graph.context(prepared, 2, tmp_path / "cache"), tmp_path)
    assert figures["integer_nodes"] == {"gemm": 1}
    assert figures["key"]["profile"] == [1, 4, 8] and figures["key"]["tensorrt"] == api["__version__"]
    assert (tmp_path / "model.engine").read_bytes() == b"an engine"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".timings"]
    for call in (
        "Builder.build_serialized_network",
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.set_timing_cache",
    ):
        assert call in trt.told


def test_parser_errors_are_a_refusal(
    api: dict[str, Any], exported: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"OnnxParser.num_errors": 1, "ParserError.desc": "no such operator", "OnnxParser.parse": lambda _: False}
    error = Double(api, "ParserError", [], errors)
    trt = Module(api, **errors, **{"OnnxParser.get_error": lambda _: error})
    monkeypatch.setattr(tensorrt, "libraries", lambda: (trt, None))
    monkeypatch.setattr(tensorrt, "gpu", lambda _: "Some GPU (compute 9.0)")
    with pytest.raises(tensorrt.Refused, match="cannot parse the graph: no such operator"):
        tensorrt.run(exported, FP16, graph.context(prepared, 2, tmp_path), tmp_path)


def test_the_engine_is_run_by_calls_the_bindings_have(
    api: dict[str, Any], spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches beyond the profile are split, those below it filled up."""
    profile = [(2, 8, 8), (4, 8, 8), (8, 8, 8)]
    sizes = []
    trt = Module(
        api,
        **{
            "ICudaEngine.get_tensor_profile_shape": profile,
            "IExecutionContext.set_input_shape": lambda _, shape: sizes.append(shape[0]) or True,
        },
    )
    done = SimpleNamespace(cudaSuccess=0)
    kinds = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cuda = SimpleNamespace(cudaError_t=done, cudaMemcpyKind=kinds)
    for name in ("cudaFree", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaStreamDestroy"):
        setattr(cuda, name, lambda *_: (0,))
    cuda.cudaMalloc = cuda.cudaStreamCreate = lambda *_: (0, 4096)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=cuda))  # type: ignore[arg-type]
    opened = EngineSession(b"an engine", {"tensorrt": api["__version__"]}, spec, "test")
    assert opened.run({"image": np.zeros((17, 8, 8), np.float32)}).shape == (17, 10)
    assert sizes == [8, 8, 2]
    with pytest.raises(runtime.BuildError, match="was built by TensorRT 9, here is"):
        EngineSession(b"an engine", {"tensorrt": "9"}, spec, "test")


def test_without_a_device_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = SimpleNamespace(cudaSuccess=SimpleNamespace(name="cudaSuccess"))
    cuda = SimpleNamespace(
        cudaError_t=codes, cudaGetDeviceCount=lambda: (SimpleNamespace(name="cudaErrorNoDevice"), None)
    )
    with pytest.raises(
        NotMeasured, match="no CUDA device \\(cudaErrorNoDevice\\); run on a machine with an NVIDIA GPU"
    ):
        tensorrt.gpu(cuda)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_nothing_is_measured() -> None:
    with pytest.raises(NotMeasured, match="TensorRT is not installed"):
        tensorrt.libraries()


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("params", [FP16, INT8])
def test_an_engine_answers_like_the_export(
    exported: Path, prepared: Path, spec: Spec, params: TensorRt, tmp_path: Path
) -> None:
    try:
        device = tensorrt.gpu(tensorrt.libraries()[1])
    except NotMeasured as error:
        pytest.skip(str(error))
    figures = tensorrt.run(exported, params, graph.context(prepared, 2, tmp_path / "cache"), tmp_path)
    assert figures["key"]["gpu"] == device
    if params is INT8:
        assert figures["integer_nodes"]
    runtime.write_build(tmp_path, "tensorrt", "tensorrt", "model.engine", {}, spec, key=figures["key"])
    rows = read_rows(prepared, "validation", spec).inputs
    answers = runtime.open_build(tmp_path, 2).run(rows)
    expected = session.OnnxSession(exported.read_bytes(), {}, 2, spec, "export").run(rows)
    assert parity.compare(expected, answers)["max_logit_difference"] < (0.01 if params is FP16 else 0.1)


def test_texts_are_refused_before_anything_is_built(
    text_spec: Spec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tensorrt, "libraries", lambda: (None, None))
    monkeypatch.setattr(tensorrt, "gpu", lambda cuda: "a GPU")
    context = graph.Context(text_spec, lambda rows: {}, 1, tmp_path)
    wanted = TensorRt(kind="tensorrt", precision="fp16", batch_sizes=[1, 2, 4], rows=8)
    with pytest.raises(Refused, match="images only so far; for texts take target onnx_cuda"):
        tensorrt.run(tmp_path / "model.onnx", wanted, context, tmp_path)
