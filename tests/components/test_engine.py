from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components import engine
from components.cell import Record
from components.params import OnnxFp32, Parity, Target, TensorRt

TARGETS: dict[str, Target] = {
    "fp32": OnnxFp32(kind="onnx_fp32"),
    "fp16": TensorRt(kind="tensorrt", precision="fp16", batch_sizes=[1, 4, 8], rows=32),
}
PARITY = Parity(
    batch_sizes=[1, 3], rows=12, max_export_difference=1e-3, min_export_agreement=1.0, min_build_agreement=0.9
)


def run(prepared: Path, tmp_path: Path, export: Record, **host: Any) -> Record:
    export.write(tmp_path / "builds" / "export")
    machine = tmp_path / "host.json"
    machine.write_text(json.dumps({"gpu": None, "tensorrt": None, **host}))
    assert engine.run(TARGETS, PARITY, 2, prepared, tmp_path / "builds", machine, tmp_path / "out", None) == {}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fp16"]
    return Record.read(tmp_path / "out" / "fp16")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ({}, "no CUDA device; run on a machine with an NVIDIA GPU"),
        ({"gpu": "Some GPU (compute 9.0)"}, "TensorRT is not installed; on this machine: pip install '.[gpu]'"),
    ],
)
def test_says_what_is_missing_and_what_would_change_it(
    prepared: Path, tmp_path: Path, host: dict[str, Any], reason: str
) -> None:
    record = run(prepared, tmp_path, Record("ok"), **host)
    assert record.status == "not measured" and record.reason.startswith(reason)


@pytest.mark.parametrize("status", ["refused", "failed"])
def test_an_export_that_is_not_ok_is_passed_on(prepared: Path, tmp_path: Path, status: Any) -> None:
    record = run(prepared, tmp_path, Record(status, "why"), gpu="Some GPU (compute 9.0)", tensorrt="11.4")
    assert (record.status, record.reason) == (status, "export: why")
