"""ONNX with Q/DQ nodes: int8 weights, uint8 activations whose ranges come from the calibration split.

Unsigned activations, since the signed kernels are slower than float on x86.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.graph import Context
    from components.params import OnnxInt8Static

RUNTIME = "onnxruntime"


def run(exported: Path, params: OnnxInt8Static, context: Context, out: Path) -> dict[str, Any]:
    from components import graph

    feeds = context.calibration(params.rows)
    graph.quantize(exported, out / "model.onnx", feeds, params.calibration, params.per_channel, signed=False)
    rows = len(next(iter(feeds.values())))
    return {"calibration_rows": rows, **graph.kernels(out / "model.onnx", context.threads)}
