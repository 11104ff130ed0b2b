"""ONNX for ONNX Runtime's CUDA provider: the export as it is, or in half precision with float32 inputs and logits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.graph import Context
    from components.params import OnnxCuda

RUNTIME = "onnxruntime_cuda"


def run(exported: Path, params: OnnxCuda, context: Context, out: Path) -> dict[str, Any]:
    """Figures: how many nodes CUDA and the processor run, by operator. Raises BuildError without CUDA."""
    from components import graph

    if params.precision == "fp16":
        graph.write_half(exported, out / "model.onnx")
    else:
        shutil.copyfile(exported, out / "model.onnx")
    return dict(graph.placed(out / "model.onnx", context.threads))
