"""ONNX in full precision: the export as it is. ONNX Runtime optimises it when it loads, for the machine it is on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from components import graph
from components.params import OnnxFp32


def run(exported: Path, params: OnnxFp32, context: graph.Context, out: Path) -> dict[str, Any]:
    shutil.copyfile(exported, out / "model.onnx")
    return dict(graph.kernels(out / "model.onnx", context.threads))
