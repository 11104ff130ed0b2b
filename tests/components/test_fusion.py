"""A fused graph answers as the exported one does, whatever the mask; what does not fit stays as it is."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic

from components import certificate, embeddings, fusion, graph
from components.params import OnnxInt8Dynamic
from components.session import ONNX_SESSION, onnx_session
from components.targets import onnx_int8_dynamic
from tests.components import exported_texts as texts

SHAPES = ((1, 5), (2, 64), (6, 17))
DYNAMIC = OnnxInt8Dynamic(kind="onnx_int8_dynamic", per_channel=True, min_integer_share=0.95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


def exported(folder: Path, architecture: str) -> Path:
    file = folder / f"{architecture}.onnx"
    return file if file.exists() else texts.export(architecture, file)


def answers(content: bytes, session: dict[str, Any] = ONNX_SESSION) -> list[np.ndarray]:
    opened = onnx_session(content, session, 1)
    return [opened.run(None, texts.rows(*shape))[0] for shape in SHAPES]


@pytest.mark.parametrize("architecture", texts.CONFIGS)
def test_a_fused_graph_answers_as_the_exported_one(folder: Path, architecture: str) -> None:
    file = exported(folder, architecture)
    model = onnx.load(file)
    assert fusion.fuse(model) == {"attention_fused": 0 if architecture == "deberta" else 2, "first_token": True}
    onnx.checker.check_model(model)
    for theirs, mine in zip(answers(file.read_bytes()), answers(model.SerializeToString()), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * np.abs(theirs).max())
    if architecture != "deberta":
        counts = Counter(node.op_type for node in model.graph.node)
        assert (counts["Attention"], counts["MultiHeadAttention"], counts["Softmax"]) == (1, 1, 0)


def test_a_mask_that_is_more_than_the_raw_one_is_not_fused(folder: Path) -> None:
    model = onnx.load(exported(folder, "bert"))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    masked = next(node for node in model.graph.node if softmax.input[0] in node.output)
    where = next(node for node in model.graph.node if node.op_type == "Where" and masked.input[1] in node.output)
    lowest = next(tensor for tensor in model.graph.initializer if tensor.name == where.input[2])
    lowest.CopyFrom(numpy_helper.from_array(np.float32(-1), lowest.name))  # masked tokens count, only less
    assert fusion.fuse(model)["attention_fused"] == 0


def test_a_classifier_that_reads_every_token_gets_every_token(folder: Path) -> None:
    model = onnx.load(exported(folder, "bert"))
    taken = next(node for node in reversed(model.graph.node) if node.op_type == "Gather")
    index = numpy_helper.from_array(np.array(1), "second")
    model.graph.initializer.append(index)
    taken.input[1] = "second"
    before = answers(model.SerializeToString())
    assert fusion.fuse(model) == {"attention_fused": 2, "first_token": False}
    for theirs, mine in zip(before, answers(model.SerializeToString()), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * np.abs(theirs).max())


def test_a_graph_without_a_mask_is_left_alone(folder: Path) -> None:
    model = onnx.load(exported(folder, "bert"))
    model.graph.input[1].name = "image"
    before = copy.deepcopy(model)
    assert fusion.fuse(model) == {} and model == before


def test_embeddings_are_int8_a_row() -> None:
    table = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    table[3] = 0
    table[4] *= 1000  # a wide row costs the others nothing
    weights, scales = embeddings.quantized(table)
    assert weights.dtype == np.int8
    assert (np.abs(weights * scales - table) <= np.abs(table).max(1, keepdims=True) / 250).all()


@pytest.mark.parametrize("architecture", ["bert", "deberta"])
def test_an_int8_text_build_is_small_close_and_certified(folder: Path, tmp_path: Path, architecture: str) -> None:
    file = exported(folder, architecture)
    context = cast(Any, SimpleNamespace(threads=1))
    figures = onnx_int8_dynamic.run(file, DYNAMIC, context, tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    assert figures["embeddings_int8"] >= 2 and len(content) < 0.5 * file.stat().st_size
    plain = tmp_path / "plain.onnx"
    with graph.quiet_tools():
        quantize_dynamic(file, plain, op_types_to_quantize=["Gemm", "MatMul"], per_channel=True)
    theirs = np.concatenate(answers(file.read_bytes()))
    error, usual = (
        np.abs(np.concatenate(found) - theirs).mean() for found in (answers(content), answers(plain.read_bytes()))
    )
    assert error < 1.5 * usual
    one = texts.rows(1, 17)
    found = certificate.certify(DYNAMIC, tmp_path, file, one, 1)["certificate"]
    assert found["integer_weight_share"] == 1
    if architecture == "bert":
        layer = 17 * 3 * 64 * 64 + 17 * 64 * (64 + 2 * 128)  # every token
        last = (17 * 2 + 1) * 64 * 64 + 64 * (64 + 2 * 128)  # keys and values of every token, all else of the first
        products = 2 * 17 * 17 * 64 + 2 * 17 * 64
        counts = [(each["weights"], each["multiply_adds"]) for each in found["layers"]]
        assert sum(count for weights, count in counts if weights) == layer + last + 64 * 64 + 64 * 3
        assert sum(count for weights, count in counts if not weights) == products
    assert json.dumps(figures)
