"""How far two builds lie apart, in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from components import difference, runtime
from components.data import Spec


def build(folder: Path, spec: Spec, weights: np.ndarray, **more: object) -> Path:
    """A linear classifier of 8x8 images."""
    folder.mkdir()
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.zeros(10, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    runtime.write_build(folder, "onnx_fp32", "onnxruntime", "model.onnx", {"spins": True}, spec, **more)
    return folder


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def test_equal_builds_have_no_difference(tmp_path: Path, spec: Spec, weights: np.ndarray) -> None:
    assert difference.builds(build(tmp_path / "a", spec, weights), build(tmp_path / "b", spec, weights)) == []


def test_weights_and_logits_are_told_by_how_much(
    tmp_path: Path, prepared: Path, spec: Spec, weights: np.ndarray
) -> None:
    other = weights.copy()
    other[3, 4] += 0.25
    one, two = build(tmp_path / "a", spec, weights), build(tmp_path / "b", spec, other)
    record, model = difference.builds(one, two)
    assert record == "build.json: differs in sha256"
    assert model == "model.onnx: 1 of 2 weights differ, by 0.25 at most (in w)"
    told = difference.logits(one, two, prepared, threads=1)
    assert told.startswith("4 at most on 120 test rows, of which"), told  # a pixel is 16 at most
    (two / "model.onnx").write_bytes(b"no model")
    assert "model.onnx: other bytes, and cannot be compared: is no ONNX file" in difference.builds(one, two)[1]
    assert difference.logits(one, two, prepared, threads=1).startswith("not compared: ")


def test_shapes_names_and_records(tmp_path: Path, spec: Spec, weights: np.ndarray) -> None:
    w = {"a": weights, "b": weights}
    assert difference.weights(w, w) == "all weights are equal, other parts of the file differ"
    assert difference.weights(w, {"a": weights[:3], "c": weights}) == (
        "2 weights are in one of the two only, b first; a has the shape (64, 10), made again (3, 10)"
    )
    one, two = build(tmp_path / "a", spec, weights), build(tmp_path / "b", spec, weights, key={"x": 1})
    assert difference.builds(one, two) == ["build.json: differs in key"]
    (two / "tokenizer.json").write_text(json.dumps({}))
    assert difference.builds(one, two)[1] == "tokenizer.json: only one of the two has it, the original has not"
