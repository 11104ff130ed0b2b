from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from components import runtime, session
from components.data import Spec
from components.runtime import open_build, write_build
from components.session import BuildError

SPEC = Spec(
    task="image_classification",
    inputs={"image": "float32"},
    vocabulary=None,
    shape=[2, 2],
    classes=["a", "b", "c"],
    statistics={"mean": [0.0]},
)
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def model(name: str = "image", output: str = "logits", shape: tuple[int, ...] = (2, 2)) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Flatten", [name], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], [output])],
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def build(folder: Path, content: bytes | None = None) -> Path:
    (folder / "model.onnx").write_bytes(model().SerializeToString() if content is None else content)
    write_build(folder, "onnx_fp32", "onnxruntime", "model.onnx", session.ONNX_SESSION, SPEC)
    return folder


def card(folder: Path, **changed: object) -> None:
    path = folder / "build.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_answers_raw_inputs_at_any_batch_size(tmp_path: Path) -> None:
    opened = open_build(build(tmp_path), threads=1)
    for rows in (1, 2, 7):
        image = np.random.default_rng(rows).normal(size=(rows, 2, 2)).astype(np.float32)
        logits = opened.run({"image": image})
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, image.reshape(rows, 4) @ WEIGHT, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({}, "takes image, got nothing"),
        ({"image": np.zeros((1, 2, 2), np.float32), "mask": np.zeros(1)}, "takes image, got image, mask"),
        ({"image": np.zeros((1, 2, 2))}, "got float64 \\(1, 2, 2\\)"),
        ({"image": np.zeros((1, 3, 2), np.float32)}, "must be float32 \\(batch, 2, 2\\), got float32 \\(1, 3, 2\\)"),
        ({"image": np.zeros((0, 2, 2), np.float32)}, "got float32 \\(0, 2, 2\\)"),
    ],
)
def test_refuses_what_it_does_not_take(tmp_path: Path, inputs: dict[str, np.ndarray], complaint: str) -> None:
    with pytest.raises(BuildError, match=complaint):
        open_build(build(tmp_path), threads=1).run(inputs)


@pytest.mark.hardening("G34", "empty, no model, truncated")
@pytest.mark.parametrize("content", [b"", b"no model", model().SerializeToString()[:-40]])
def test_refuses_a_broken_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BuildError, match=r"model.onnx: .*"):
        open_build(build(tmp_path, content), threads=1)


def test_refuses_a_file_that_was_changed(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "model.onnx").write_bytes(model().SerializeToString() + b"\0")
    with pytest.raises(BuildError, match="was changed after it was built"):
        open_build(tmp_path, threads=1)


@pytest.mark.hardening("G34", "external data by hard link, link, copy, absolute path, ..")
@pytest.mark.parametrize("link", [os.link, os.symlink, shutil.copyfile, None, "../secret"])
def test_reads_no_other_file(tmp_path: Path, link: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights outside the model file are never read: not by path, not through a link, which ONNX Runtime follows."""
    outside = tmp_path / "secret"
    outside.write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "build"
    folder.mkdir()
    location = "weights"
    if callable(link):
        link(outside, folder / location)
    else:
        location = link or str(outside)
    external = model()
    tensor = external.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    monkeypatch.chdir(folder)
    with pytest.raises(BuildError, match="ONNX Runtime cannot open it"):
        open_build(build(folder, external.SerializeToString()), threads=1)


@pytest.mark.hardening("G36", "other inputs, outputs and ranks than build.json's")
@pytest.mark.parametrize("broken", [model(name="pixels"), model(output="scores"), model(shape=(4, 1))])
def test_refuses_another_signature(tmp_path: Path, broken: onnx.ModelProto) -> None:
    with pytest.raises(BuildError, match=r"must (take {'image'|answer logits)"):
        open_build(build(tmp_path, broken.SerializeToString()), threads=1)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"file": "../model.onnx"}, "file must name a file in this folder"),
        ({"runtime": "pickle"}, "runtime must be one of onnxruntime, .*, got 'pickle'"),
        ({"spec": {}}, "is no build"),
        ({"file": "absent.onnx"}, "is no build"),
    ],
)
def test_refuses_a_wrong_card(tmp_path: Path, changed: dict[str, object], complaint: str) -> None:
    build(tmp_path)
    card(tmp_path, **changed)
    with pytest.raises(BuildError, match=complaint):
        open_build(tmp_path, threads=1)


def test_an_engine_needs_tensorrt_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    build(tmp_path)
    card(tmp_path, runtime="tensorrt", key={"tensorrt": "0.0", "gpu": "none"})
    with pytest.raises(BuildError, match="TensorRT"):
        open_build(tmp_path, threads=1)


def test_the_digest_names_file_and_card(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        build(folder)
    assert runtime.digest(one) == runtime.digest(two)
    card(two, session={})
    assert runtime.digest(one) != runtime.digest(two)


def test_session_options_are_honoured(tmp_path: Path) -> None:
    """A disabled optimiser's node is not in the optimised graph."""
    nodes = [
        helper.make_node("Add", ["image", "image"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "scale", "bias"], ["normal"], axis=-1),
        helper.make_node("Identity", ["normal"], ["logits"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8]) for name in ("image", "logits")]
    ones = [numpy_helper.from_array(np.ones(8, np.float32), name) for name in ("scale", "bias")]
    graph = helper.make_graph(nodes, "norm", info[:1], info[1:], ones)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    found = {}
    for name, options in {"fused": {}, "plain": session.ONNX_SESSION}.items():
        session.onnx_session(content, options, 1, tmp_path / f"{name}.onnx")
        found[name] = {node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node}
    assert "SkipLayerNormalization" in found["fused"]
    assert "SkipLayerNormalization" not in found["plain"]
