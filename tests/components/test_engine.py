from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components import engine
from components.cell import Record
from components.params import OnnxCuda, OnnxFp32, Parity, Target, TensorRt

TARGETS: dict[str, Target] = {
    "fp32": OnnxFp32(kind="onnx_fp32"),
    "fp16": TensorRt(kind="tensorrt", precision="fp16", batch_sizes=[1, 4, 8], rows=32),
    "cuda": OnnxCuda(kind="onnx_cuda", precision="fp32"),
}
PARITY = Parity(
    batch_sizes=[1, 3], rows=12, max_export_difference=1e-3, min_export_agreement=1.0, min_build_agreement=0.9
)


def run(prepared: Path, tmp_path: Path, export: Record, **host: Any) -> dict[str, Record]:
    export.write(tmp_path / "builds" / "export")
    machine = tmp_path / "host.json"
    machine.write_text(
        json.dumps({"gpu": None, "providers": ["cpu"], "onnxruntime": "1.32.0", "tensorrt": None, **host})
    )
    assert engine.run(TARGETS, PARITY, 2, prepared, tmp_path / "builds", machine, tmp_path / "out", None) == {}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"fp16", "cuda"}
    return {name: Record.read(tmp_path / "out" / name) for name in ("fp16", "cuda")}


@pytest.mark.parametrize(
    ("host", "reasons"),
    [
        ({}, dict.fromkeys(("fp16", "cuda"), "no CUDA device; run on a machine with an NVIDIA GPU")),
        (
            {"gpu": "Some GPU (compute 9.0)"},
            {
                "fp16": "TensorRT is not installed; on this machine: pip install '.[gpu]'",
                "cuda": "onnxruntime has no CUDA provider; on this machine: pip uninstall -y onnxruntime &&",
            },
        ),
    ],
)
def test_says_what_is_missing_and_what_would_change_it(
    prepared: Path, tmp_path: Path, host: dict[str, Any], reasons: dict[str, str]
) -> None:
    for name, record in run(prepared, tmp_path, Record("ok"), **host).items():
        assert record.status == "not measured" and record.reason.startswith(reasons[name])


@pytest.mark.parametrize("status", ["refused", "failed"])
def test_an_export_that_is_not_ok_is_passed_on(prepared: Path, tmp_path: Path, status: Any) -> None:
    able = {"gpu": "Some GPU (compute 9.0)", "providers": ["cpu", "cuda"], "tensorrt": "11.4"}
    for record in run(prepared, tmp_path, Record(status, "why"), **able).values():
        assert (record.status, record.reason) == (status, "export: why")
