"""What ONNX Runtime really ran, by its own profile: the kernel, types, shapes and time of every node."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.graph import FLOAT_KERNELS, INTEGER_KERNELS
from components.session import onnx_session

Inputs = Mapping[str, np.ndarray]

# That multiply. MatMulNBits takes float activations and does not tell in what it computes: not integer.
KERNELS = INTEGER_KERNELS | FLOAT_KERNELS | {"ConvTranspose", "MatMulNBits"}
TURNS, TURN = 10, 4  # profiled turns, and calls in one: more tell no more


@dataclass(frozen=True)
class Executed:
    """A node as ONNX Runtime ran it."""

    kernel: str
    types: Sequence[str]  # of its inputs, without weights that were packed when it was opened
    shapes: Sequence[Sequence[int]]
    output: Sequence[int]
    milliseconds: float  # of a call


def execute(
    content: bytes, session: Mapping[str, Any], threads: int, one: Inputs, optimized: Path
) -> dict[str, Executed]:
    """Every node by name, in the order in which it ran; `optimized` gets the graph that ran."""
    with profiled({"": (content, session)}, threads, optimized) as (opened, profiles):
        opened[""].run(None, dict(one))
    return profiles[""]


@contextlib.contextmanager
def profiled(
    builds: Mapping[str, tuple[bytes, Mapping[str, Any]]], threads: int, optimized: Path | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, dict[str, Executed]]]]:
    """Sessions to run, by the names of the builds, and what they ran: {build: {node: Executed}}, once it is left."""
    found: dict[str, dict[str, Executed]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch) / "profile"
        opened = {
            name: onnx_session(content, session, threads, optimized, profile=profile.with_suffix(f".{number}"))
            for number, (name, (content, session)) in enumerate(builds.items())
        }
        yield opened, found
        for name, session in opened.items():
            found[name] = executed(json.loads(Path(session.end_profiling()).read_text("utf-8")))


def executed(events: Sequence[Any]) -> dict[str, Executed]:
    """Of a profile's events, the nodes by name; of the times of each the mean, without the slowest quarter.

    The first call of a turn does not count. The clock has whole microseconds, cut off; what it and the notes that
    are taken cost every node is what the cheapest that does not multiply is said to take: a change of shape.
    """
    calls: dict[str, list[Any]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            calls.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    mean = {}
    for name, found in calls.items():
        counted = [event["dur"] for i, event in enumerate(found) if i % TURN] or [event["dur"] for event in found]
        mean[name] = float(np.mean(sorted(counted)[: max(len(counted) * 3 // 4, 1)]))
    cheap = [mean[name] for name, found in calls.items() if found[-1]["args"]["op_name"] not in KERNELS]
    floor = min(cheap, default=0.0)
    nodes = {}
    for name, found in calls.items():
        told = found[-1]["args"]
        taken = [pair for tensor in told["input_type_shape"] for pair in tensor.items()]
        given = [shape for tensor in told["output_type_shape"] for shape in tensor.values()]
        types, shapes = [kind for kind, _ in taken], [shape for _, shape in taken]
        nodes[name] = Executed(
            told["op_name"], types, shapes, given[0] if given else [], max(mean[name] - floor, 0.0) / 1000
        )
    return nodes


def measure(builds: Mapping[str, Path], threads: int, inputs: Inputs) -> dict[str, Any]:
    """{build: {layers: {node: ms}, others: {kernel: ms}}}, of a call, by ONNX Runtime's profile.

    Layers are what multiplies, `others` all the rest. `builds` are folders of builds for the processor, called in
    turns. Only true where nothing else runs on the machine.
    """
    files = {}
    for name, folder in builds.items():
        card = json.loads((folder / "build.json").read_text("utf-8"))
        files[name] = ((folder / card["file"]).read_bytes(), card["session"])
    with profiled(files, threads) as (opened, profiles):
        for _ in range(TURNS):
            for session in opened.values():
                for _ in range(TURN):
                    session.run(None, dict(inputs))
    measured = {}
    for name, ran in profiles.items():
        others: dict[str, float] = {}
        for node in ran.values():
            if node.kernel not in KERNELS:
                others[node.kernel] = others.get(node.kernel, 0.0) + node.milliseconds
        layers = {node: found.milliseconds for node, found in ran.items() if found.kernel in KERNELS}
        measured[name] = {"layers": layers, "others": others}
    return measured
