"""ONNX in full precision: the export as it is. ONNX Runtime optimises it when it loads, for the machine it is on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.graph import Context
    from components.params import OnnxFp32

RUNTIME = "onnxruntime"


def run(exported: Path, params: OnnxFp32, context: Context, out: Path) -> dict[str, Any]:
    from components import graph

    shutil.copyfile(exported, out / "model.onnx")
    return dict(graph.kernels(out / "model.onnx", context.threads))
