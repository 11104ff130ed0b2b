"""Model files that are damaged, foreign or too large are refused before a session opens, soon and in little memory."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from components import admission, checkpoint
from components.errors import DataError, TemperError
from components.passes import lora

ROOT = Path(__file__).resolve().parents[2]
SPEC = {"inputs": {"image": "float32"}, "shape": [2, 2], "vocabulary": None}
# Admits a model in 2 GiB of address space, and says what came of it, in how long and in how much.
CHILD = """
import json, re, resource, sys, time
from pathlib import Path
import onnx
from components import admission
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
content, started = Path(sys.argv[1]).read_bytes(), time.process_time()
try:
    admission.check(content, json.loads(sys.argv[2]))
    said = "admitted"
except ValueError as error:
    said = f"refused: {error}"
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
print(json.dumps({"said": said, "seconds": time.process_time() - started, "peak_mb": peak}))
"""


def model(**changed: Any) -> onnx.ModelProto:
    """Flatten and MatMul, as `changed` says: nodes, name, kind, rank, output, opsets, weight."""
    name, output = changed.get("name", "image"), changed.get("output", "logits")
    nodes = changed.get("nodes") or [
        helper.make_node("Flatten", [name], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], [output]),
    ]
    weight = changed.get("weight") or numpy_helper.from_array(np.ones((4, 3), np.float32), "weight")
    shape = ["batch", *[2] * (changed.get("rank", 3) - 1)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, changed.get("kind", TensorProto.FLOAT), shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    opsets = [helper.make_opsetid(*opset) for opset in changed.get("opsets", [("", 20)])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def branch() -> onnx.NodeProto:
    """If inside Loop inside If."""
    inner = helper.make_node("Identity", ["image"], ["y"])
    for kind in ("If", "Loop", "If"):
        out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = helper.make_graph([inner], kind, [], out)
        names = {"If": ("then_branch", "else_branch"), "Loop": ("body",)}[kind]
        inner = helper.make_node(kind, ["c"], ["y"], **dict.fromkeys(names, graph))
    return inner


def huge() -> TensorProto:
    return TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20], raw_data=b"\0" * 48)


def field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def million(node: bytes) -> bytes:
    """A model of a million nodes, put together from bytes."""
    return field(7, field(1, node) * 1_000_000)


def function() -> onnx.ModelProto:
    made = model()
    body = [helper.make_node("Identity", ["x"], ["y"])]
    made.functions.append(helper.make_function("", "f", ["x"], ["y"], body, [helper.make_opsetid("", 20)]))
    return made


def deep() -> bytes:
    """Types of sequences of sequences, five hundred deep."""
    kind = b""
    for _ in range(500):
        kind = field(4, field(1, kind))
    return field(7, field(11, field(2, kind)))


WHOLE = model().SerializeToString()
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "takes {}"),
    "random bytes": (lambda: np.random.default_rng(0).bytes(5_000), "is no ONNX model"),
    "truncated": (lambda: WHOLE[:-40], "is no ONNX model"),
    "operators of another domain": (
        lambda: model(opsets=[("", 20), ("harm.invalid", 1)]).SerializeToString(),
        "needs operators of 'harm.invalid'",
    ),
    "a node of another domain": (
        lambda: model(nodes=[helper.make_node("Run", ["image"], ["logits"], domain="x")]).SerializeToString(),
        "has an operator of 'x'",
    ),
    "another input": (lambda: model(name="pixels").SerializeToString(), "takes {'pixels'"),
    "another rank": (lambda: model(rank=4).SerializeToString(), "takes {'image': ('float32', 4)}"),
    "another kind of number": (
        lambda: model(kind=TensorProto.DOUBLE).SerializeToString(),
        "takes {'image': (None, 3)}",
    ),
    "another output": (lambda: model(output="scores").SerializeToString(), "answers something else than logits"),
    "an opset to come": (lambda: model(opsets=[("", 999)]).SerializeToString(), "is of opset 999"),
    "a million nodes": (lambda: million(b""), "more than 1,000,000 parts"),
    "a million nodes with names": (
        lambda: million(field(4, b"Identity") + field(3, b"n")),
        "more than 1,000,000 parts",
    ),
    "a shape of 4 TB": (lambda: model(weight=huge()).SerializeToString(), "values and fewer bits"),
    "nested If and Loop": (lambda: model(nodes=[branch()]).SerializeToString(), "has a graph inside a node"),
    "functions": (lambda: function().SerializeToString(), "has a FunctionProto"),
    "types in types": (deep, "deep"),
}


@pytest.mark.hardening(
    "G36", "domains, names, ranks, kinds, opsets, 1e6 nodes, 4 TB shapes, If/Loop, functions, damage"
)
def test_a_model_is_refused_by_what_it_says_of_itself(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("times", len(REFUSED))
    assert admission.check(WHOLE, SPEC).graph.name == "g"
    for name, (make, said) in REFUSED.items():
        with pytest.raises(ValueError, match=re.escape(said)) as caught:
            admission.check(make(), SPEC)
            pytest.fail(f"{name} was not refused")
        assert len(str(caught.value)) < 500


@pytest.mark.hardening("G36", "the largest of them in a child of 2 GiB: seconds of the processor and peak memory")
@pytest.mark.parametrize("name", ["a million nodes with names", "a shape of 4 TB", "types in types"])
def test_it_is_refused_soon_and_in_little_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(REFUSED[name][0]())
    words = [sys.executable, "-c", CHILD, str(tmp_path / "model.onnx"), json.dumps(SPEC)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert REFUSED[name][1] in told["said"] and told["seconds"] < 10 and told["peak_mb"] < 1_024, told


@pytest.mark.hardening(
    "G34", "safetensors: a header of 1e15 bytes, no header, truncated, random, offsets beyond the end"
)
@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 10**15) + b"{}",
        b"",
        struct.pack("<Q", 90) + b"{}",
        bytes(range(256)),
        struct.pack("<Q", 70) + b'{"w":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'.ljust(70),
        struct.pack("<Q", 2) + b"{}" + b"\x80\x04pickle",
    ],
    ids=["header of 1e15", "empty", "truncated", "no JSON", "beyond the end", "bytes of nothing"],
)
def test_damaged_weights_are_refused_by_their_header(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        checkpoint.check_weights(tmp_path, "it")


@pytest.mark.hardening("G38", "an adapter of another base, of no base, and with a base that is no JSON")
@pytest.mark.parametrize("base", [json.dumps({"sha256": "1" * 64}), None, "{", "[]", "{}", json.dumps({"sha256": 1})])
def test_an_adapter_of_another_base_is_refused(base: str | None, tmp_path: Path) -> None:
    if base is not None:
        (tmp_path / "base.json").write_text(base, "utf-8")
    with pytest.raises(TemperError, match=r"adapter.*(belongs to weights|does not say)"):
        lora.attach(SimpleNamespace(module=None), tmp_path, "0" * 64)  # type: ignore[arg-type]
