"""Every thread of a session has a processor of its own, and the caller gets its old ones back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components import pinning

MINE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
pytestmark = pytest.mark.skipif(len(MINE) < 2, reason="one processor, or a system that cannot pin")


def test_one_thread_of_each_core_comes_first(tmp_path: Path) -> None:
    for number in MINE:
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        # The first two share a core.
        (folder / "thread_siblings_list").write_text("0-1" if number in MINE[:2] else str(number), "utf-8")
    apart = pinning.processors(len(MINE), tmp_path)
    assert sorted(apart) == MINE and apart[-1] == MINE[1]
    assert pinning.processors(1, tmp_path) == MINE[:1]
    assert pinning.processors(len(MINE) + 1, tmp_path) == []


def test_threads_that_are_started_go_to_the_other_processors() -> None:
    stop = threading.Event()

    def start() -> threading.Thread:
        thread = threading.Thread(target=stop.wait)
        thread.start()
        return thread

    try:
        with pinning.first(MINE[:2]):
            assert os.sched_getaffinity(0) == {MINE[0]}
            thread = pinning.spread(start, MINE[:2])
            assert thread.native_id and os.sched_getaffinity(thread.native_id) == {MINE[1]}
        assert sorted(os.sched_getaffinity(0)) == MINE
    finally:
        stop.set()


def test_onnx_runtime_and_pytorch_are_pinned(root: Path) -> None:
    """In a process of its own: the pools of this one may be there already."""
    code = """
import os, torch
from components import pinning
from onnxruntime import InferenceSession, SessionOptions
from onnx import TensorProto, helper
on = sorted(os.sched_getaffinity(0))[:2]
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "neg", [value("x")], [value("y")])
content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
options = SessionOptions()
options.intra_op_num_threads = 2
torch.set_num_threads(2)
x = torch.rand(1000, 1000)
for make in (lambda: InferenceSession(content, options), lambda: x.exp()):
    before = pinning.threads()
    with pinning.first(on):
        kept = pinning.spread(make, on)
    new = pinning.threads() - before
    print(len(new), {tuple(os.sched_getaffinity(thread)) for thread in new} == {(on[1],)})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True"] * 2
