"""ONNX in half precision: half the size. Inputs and logits stay float32, and so does normalisation.

Few processors have half-precision kernels in ONNX Runtime: it then computes in float32 between casts, which
the figures count, and is slower than onnx_fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.graph import Context
    from components.params import OnnxFp16

RUNTIME = "onnxruntime"


def run(exported: Path, params: OnnxFp16, context: Context, out: Path) -> dict[str, Any]:
    from components import graph

    graph.write_half(exported, out / "model.onnx")
    return dict(graph.kernels(out / "model.onnx", context.threads))
