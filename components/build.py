"""The model as one ONNX graph, proven equal to PyTorch on real rows, then every target for the processor made from it.

A mismatch torch -> ONNX refuses all of the variant's cells, a build's own mismatch that cell.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components import assemble, cell, certificate, multiply_adds, runtime
from components.cell import Record
from components.data import read_rows
from components.diagnosis import Answer
from components.errors import NotMeasured
from components.graph import context, name_layers, pool, tidy
from components.hashing import fingerprint_cell
from components.model import Model
from components.params import Parity, Target, Variant
from components.parity import EXPORT, check, check_build
from components.session import ONNX_SESSION, OnnxSession
from components.targets import TARGETS

CACHE = Path(".temper/builds")
HOST = ("machine", "isa", "onnx", "onnxruntime", "onnxscript", "torch", "transformers")  # fields of host.json
# What a cell is made with, besides its family, task, target and runtime: all that this file imports (a test says so).
CODE = (
    "components/assemble.py",
    "components/attention.py",
    "components/build.py",
    "components/cell.py",
    "components/certificate.py",
    "components/classification.py",
    "components/data.py",
    "components/diagnosis.py",
    "components/embeddings.py",
    "components/fusion.py",
    "components/graph.py",
    "components/language.py",
    "components/model.py",
    "components/multiply_adds.py",
    "components/parity.py",
    "components/pretrained.py",
    "components/profiles.py",
    "components/runtime.py",
    "components/sequential.py",
    "components/session.py",
    "components/slim.py",
)


def export(model: Model, example: Mapping[str, np.ndarray], out: Path) -> None:
    """Write preprocessing and model as one ONNX graph: raw inputs, dynamic batch, of text length too, output `logits`.

    The same model gives the same bytes. May change the module's attention: give it one of its own.
    """
    import onnx
    import torch

    names = list(example)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model.module

        def forward(self, *raw: torch.Tensor) -> torch.Tensor:
            return model.logits(dict(zip(names, raw, strict=True)))

    # transformers' fused attention exports as twice the nodes; the plain one answers the same, 1.2 times as fast.
    if plain := getattr(model.module, "set_attn_implementation", None):
        plain("eager")
    whole = Whole().eval()  # the exporter restores the mode of what it is given: dropout would come back on
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if model.spec.vocabulary is not None:
        axes[1] = torch.export.Dim("length", min=2, max=model.spec.shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole,
            # Two rows, or the exporter takes the batch for a constant.
            tuple(torch.from_numpy(np.resize(values, (2, *values.shape[1:]))) for values in example.values()),
            input_names=names,
            output_names=["logits"],
            dynamic_shapes={"raw": tuple(axes for _ in names)},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - only the old exporter writes the file itself
    exported = program.model_proto
    name_layers(exported)
    pool(exported)
    tidy(exported)
    onnx.checker.check_model(exported, full_check=True)
    out.write_bytes(exported.SerializeToString(deterministic=True))


def eager(model: Model) -> Answer:
    """PyTorch's answers to raw inputs."""
    import torch

    def answer(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = model.logits({name: torch.from_numpy(x) for name, x in inputs.items()}).numpy()
        return logits

    return answer


def run(
    variant: Variant,
    targets: Mapping[str, Target],
    parity: Parity,
    threads: int,
    data: Path,
    model: Path,
    host: Path,
    out: Path,
    previous: Path | None,
) -> dict[str, Any]:
    """Figures of the export and of every cell for the processor that is ok."""
    import onnx
    import torch

    torch.set_num_threads(threads)
    mine = {name: target for name, target in targets.items() if not runtime.runtime_of(target).DEVICE}
    source = assemble.load(model)
    rows = read_rows(data, "validation", source.spec)
    exported = out / "export" / "model.onnx"

    def gate_export(_: str, folder: Path) -> dict[str, Any]:
        if variant.kind == "pretrain":
            raise NotMeasured("its classifier is untrained: this variant is what others start from")
        file = folder / "model.onnx"
        export(assemble.load(model), rows.inputs, file)
        session = OnnxSession(file.read_bytes(), ONNX_SESSION, threads, source.spec, "export")
        place, answer = "torch -> ONNX", eager(source)
        figures = check(place, answer, session.run, rows.inputs, source.spec, parity, EXPORT)
        counted = multiply_adds.of_row(onnx.load(file))
        if counted is None:  # then by running it
            ran = certificate.of_onnx(file.read_bytes(), threads, rows.head(1).inputs)["layers"]
            counted = sum(layer["multiply_adds"] for layer in ran)
        return {"bytes": file.stat().st_size, "multiply_adds": counted, "parity": figures}

    def build(name: str, folder: Path) -> dict[str, Any]:
        figures = TARGETS[mine[name].kind].run(exported, mine[name], context(data, threads, CACHE), folder)
        figures = runtime.ship(mine[name], folder, data, figures)
        figures["parity"] = check_build(name, exported, folder, data, parity, threads)
        return figures | certificate.certify(mine[name], folder, exported, rows.head(1).inputs, threads)

    machine = json.loads(host.read_text("utf-8"))
    # INT8 sums saturate or not depending on the instruction set: parity may end otherwise on another machine.
    told = {key: machine[key] for key in HOST}
    made_from = [
        model,
        data / "spec.json",
        data / "validation.parquet",
        parity.model_dump(),
        threads,
        told,
        variant.kind,
    ]
    code = [*CODE, f"components/families/{source.params.family}.py", f"components/tasks/{source.spec.task}.py"]

    def inputs(name: str) -> str:
        if name == "export":
            return fingerprint_cell(code, *made_from)
        members, calibration = runtime.code_of(mine[name]), data / "calibration.parquet"
        return fingerprint_cell([*code, *members], *made_from, calibration, mine[name].model_dump())

    first = cell.each(["export"], gate_export, inputs, out, previous)["export"]
    if first.status == "ok":
        records = cell.each(mine, build, inputs, out, previous)
    else:  # nothing is built from a graph that is not the model
        records = cell.spread(Record(first.status, f"export: {first.reason}", detail=first.detail), mine, out)
    return cell.numbers({"export": first, **records})
