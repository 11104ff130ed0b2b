"""ONNX with int8 weights, activations quantized on the fly to uint8: no calibration, the least error of the INT8 kinds.

Convolutions stay float: their dynamic kernel, ConvInteger, was slower than float wherever it was tried.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.graph import Context
    from components.params import OnnxInt8Dynamic

RUNTIME = "onnxruntime"


def run(exported: Path, params: OnnxInt8Dynamic, context: Context, out: Path) -> dict[str, Any]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from components import graph

    with graph.quiet_tools():
        quantize_dynamic(
            exported,
            out / "model.onnx",
            op_types_to_quantize=["Gemm", "MatMul"],
            per_channel=params.per_channel,
            weight_type=QuantType.QInt8,
        )
    return dict(graph.kernels(out / "model.onnx", context.threads))
