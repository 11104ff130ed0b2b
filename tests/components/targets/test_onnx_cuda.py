"""Without a GPU: that nothing passes for CUDA, and the calls against ONNX Runtime's own; with one, the cell itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from components import graph, host, runtime, session
from components.data import Spec
from components.params import OnnxCuda
from components.parity import check_build
from components.runtimes import onnxruntime_cuda
from components.session import BuildError
from components.targets import onnx_cuda
from tests.components.targets.test_onnx_fp16 import linear
from tests.contracts.test_members import PARITY

HERE = onnxruntime_cuda.needs(host.describe())


@pytest.fixture
def built(prepared: Path, tmp_path: Path) -> Path:
    """A build for CUDA, as it comes from another machine."""
    linear(tmp_path / "model.onnx", 0.1)
    runtime.ship(OnnxCuda(kind="onnx_cuda", precision="fp32"), tmp_path, prepared, {})
    return tmp_path


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there is a CUDA provider")
def test_without_the_provider_it_is_an_error_not_a_session_on_the_processor(built: Path) -> None:
    with pytest.raises(BuildError, match=r"model.onnx: onnxruntime \S+ has no CUDAExecutionProvider; it can be"):
        runtime.open_build(built, 1)


def stand_in(monkeypatch: pytest.MonkeyPatch, said: str, **session_of: Any) -> dict[str, Any]:
    """onnxruntime as onnxruntime-gpu would be; a session runs on the processor, as it does when CUDA does not load."""
    told: dict[str, Any] = {}

    def create(content: bytes, options: Any, providers: list[Any], enable_fallback: int) -> Any:
        told.update(providers=providers, enable_fallback=enable_fallback, options=options)
        opened = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        return SimpleNamespace(
            **{name: getattr(opened, name) for name in ("get_inputs", "get_outputs", "get_providers", "run")}
            | {"get_provider_graph_assignment_info": opened.get_provider_graph_assignment_info}
            | session_of
        )

    module = SimpleNamespace(
        __version__=ort.__version__,
        SessionOptions=ort.SessionOptions,
        InferenceSession=create,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        preload_dlls=lambda: print(said),
        cuda_version="13.0",
    )
    assert all(hasattr(ort, name) for name in vars(module) if name not in ("InferenceSession", "cuda_version"))
    monkeypatch.setitem(sys.modules, "onnxruntime", module)  # type: ignore[arg-type]
    return told


def test_a_provider_that_does_not_load_is_an_error(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = stand_in(monkeypatch, "Failed to load libcublas.so.13")
    with pytest.raises(
        BuildError, match=r"could not load CUDAExecutionProvider: Failed to load libcublas.so.13; .*13.0"
    ):
        runtime.open_build(built, 1)
    assert told["providers"] == [("CUDAExecutionProvider", {"use_tf32": "0"})] and told["enable_fallback"] == 0
    assert told["options"].get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


def test_a_layer_left_to_the_processor_is_an_error(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    stand_in(monkeypatch, "", get_providers=lambda: names)
    with pytest.raises(BuildError, match=r"the processor got \['MatMul'\]"):
        runtime.open_build(built, 1)
    part = SimpleNamespace(ep_name=names[0], get_nodes=lambda: [SimpleNamespace(op_type="MatMul")])
    shapes = SimpleNamespace(ep_name=names[1], get_nodes=lambda: [SimpleNamespace(op_type="Shape")] * 2)
    placed = {"get_provider_graph_assignment_info": lambda: [part, shapes, part]}
    stand_in(monkeypatch, "", get_providers=lambda: names, **placed)
    opened = runtime.open_build(built, 1)
    assert session.placement(opened.opened) == {names[1]: {"Shape": 2}, names[0]: {"MatMul": 2}}  # type: ignore[attr-defined]
    assert graph.placed(built / "model.onnx", 1) == {"cuda_nodes": {"MatMul": 2}, "cpu_nodes": {"Shape": 2}}


@pytest.mark.parametrize("cuda", [False, True])
def test_the_host_knows_the_provider_by_its_library(
    cuda: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    if cuda:
        (capi / "libonnxruntime_providers_cuda.so").touch()
    found = SimpleNamespace(submodule_search_locations=[str(capi.parent)])
    monkeypatch.setattr(host, "find_spec", lambda name: found)
    assert host.describe()["providers"] == (["cpu", "cuda"] if cuda else ["cpu"])
    machine = {"gpu": "Some GPU (compute 9.0)", "providers": host.describe()["providers"]}
    assert (onnxruntime_cuda.needs(machine) is None) == cuda


def test_without_onnxruntime_there_is_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find_spec", lambda name: None)
    assert host.describe()["providers"] == []


@pytest.mark.gpu
@pytest.mark.skipif(HERE is not None, reason=str(HERE))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_build_answers_like_the_export(precision: Any, prepared: Path, spec: Spec, tmp_path: Path) -> None:
    exported, out = linear(tmp_path / "model.onnx", 0.1), tmp_path / "out"
    out.mkdir()
    wanted = OnnxCuda(kind="onnx_cuda", precision=precision)
    figures = onnx_cuda.run(exported, wanted, graph.context(prepared, 1, out), out)
    assert figures["cuda_nodes"]["MatMul"] == 1
    runtime.ship(wanted, out, prepared, figures)
    found = check_build("cuda", exported, out, prepared, PARITY, 1)
    assert found["max_logit_difference"] < (1e-4 if precision == "fp32" else 0.05)
