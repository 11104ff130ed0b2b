"""TensorRT engines from the exported graph, each proven against it on this machine's GPU.

Without a GPU or TensorRT (host.json says which) a cell is not measured; nothing pretends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import cell, runtime
from components.cell import Record
from components.data import Spec
from components.errors import NotMeasured
from components.graph import context
from components.hashing import fingerprint_cell
from components.params import Parity, Target, TensorRt
from components.parity import check_build
from components.targets import TARGETS

TIMINGS = Path(".temper/timings")
# What a cell is made with, besides its target: all that this file imports, as a contract test holds.
CODE = (
    "components/cell.py",
    "components/data.py",
    "components/engine.py",
    "components/graph.py",
    "components/parity.py",
    "components/runtime.py",
)


def run(
    targets: Mapping[str, Target],
    parity: Parity,
    threads: int,
    data: Path,
    builds: Path,
    host: Path,
    out: Path,
    previous: Path | None,
) -> dict[str, Any]:
    """Figures of every engine that is ok."""
    engines = {name: target for name, target in targets.items() if isinstance(target, TensorRt)}
    spec = Spec.read(data)
    machine = json.loads(host.read_text("utf-8"))
    export, exported = Record.read(builds / "export"), builds / "export" / "model.onnx"

    def build(name: str, folder: Path) -> dict[str, Any]:
        target = engines[name]
        if machine["gpu"] is None:
            raise NotMeasured("no CUDA device; run on a machine with an NVIDIA GPU and its driver")
        if machine["tensorrt"] is None:
            raise NotMeasured("TensorRT is not installed; on this machine: pip install '.[gpu]'")
        figures = TARGETS[target.kind](exported, target, context(data, threads, TIMINGS), folder)
        key = figures.pop("key")
        shipped = runtime.write_build(folder, target.kind, "tensorrt", "model.engine", {}, spec, key=key)
        return {**shipped, **figures, "parity": check_build(name, exported, folder, data, parity, threads)}

    def inputs(name: str) -> str:
        files = [data / "spec.json", data / "validation.parquet", data / "calibration.parquet", exported]
        told = [engines[name].model_dump(), parity.model_dump(), threads, machine["gpu"], machine["tensorrt"]]
        return fingerprint_cell([*CODE, f"components/targets/{engines[name].kind}.py"], *files, *told)

    if export.status != "ok":  # nothing is built from a graph that is not the model
        cell.spread(Record(export.status, f"export: {export.reason}", detail=export.detail), engines, out)
        return {}
    return cell.numbers(cell.each(engines, build, inputs, out, previous))
