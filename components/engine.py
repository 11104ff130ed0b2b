"""Every target that needs a device, made from the exported graph and proven against it on this machine.

Without what its runtime needs (host.json says what there is) a cell is not measured; nothing pretends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import cell, certificate, runtime
from components.cell import Record
from components.data import Spec
from components.errors import NotMeasured
from components.graph import context
from components.hashing import fingerprint_cell
from components.params import Parity, Target
from components.parity import check_build
from components.targets import TARGETS

TIMINGS = Path(".temper/timings")
# What a cell is made with, besides its task, target and runtime: all that this file imports, as a contract test holds.
CODE = (
    "components/attention.py",
    "components/cell.py",
    "components/certificate.py",
    "components/classification.py",
    "components/data.py",
    "components/diagnosis.py",
    "components/embeddings.py",
    "components/engine.py",
    "components/fusion.py",
    "components/graph.py",
    "components/multiply_adds.py",
    "components/parity.py",
    "components/profiles.py",
    "components/runtime.py",
    "components/session.py",
    "components/slim.py",
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
    """Figures of every cell for a device that is ok."""
    mine = {name: target for name, target in targets.items() if runtime.runtime_of(target).DEVICE}
    spec = Spec.read(data)
    machine = json.loads(host.read_text("utf-8"))
    export, exported = Record.read(builds / "export"), builds / "export" / "model.onnx"

    def build(name: str, folder: Path) -> dict[str, Any]:
        if missing := runtime.runtime_of(mine[name]).needs(machine):
            raise NotMeasured(missing)
        figures = TARGETS[mine[name].kind].run(exported, mine[name], context(data, threads, TIMINGS), folder)
        figures = runtime.ship(mine[name], folder, data, figures)
        figures["parity"] = check_build(name, exported, folder, data, parity, threads)
        return figures | certificate.certify(
            mine[name], folder, exported, context(data, threads, TIMINGS).calibration(1), threads
        )

    def inputs(name: str) -> str:
        files = [data / "spec.json", data / "validation.parquet", data / "calibration.parquet", exported]
        told = {field: machine[field] for field in runtime.runtime_of(mine[name]).HOST}
        made_from = [mine[name].model_dump(), parity.model_dump(), threads, told]
        members = [f"components/tasks/{spec.task}.py", *runtime.code_of(mine[name])]
        return fingerprint_cell([*CODE, *members], *files, *made_from)

    if export.status != "ok":  # nothing is built from a graph that is not the model
        cell.spread(Record(export.status, f"export: {export.reason}", detail=export.detail), mine, out)
        return {}
    return cell.numbers(cell.each(mine, build, inputs, out, previous))
