"""ONNX with int8 weights, activations quantized on the fly to uint8: no calibration, the least error of the INT8 kinds.

Convolutions stay float: their dynamic kernel, ConvInteger, was slower than float wherever it was tried. A text
classifier's attention is fused and its embeddings are int8 a row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.graph import Context
    from components.params import OnnxInt8Dynamic

RUNTIME = "onnxruntime"


def run(exported: Path, params: OnnxInt8Dynamic, context: Context, out: Path) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from components import fusion, graph

    model, file = onnx.load(exported), out / "model.onnx"
    fused = fusion.fuse(model)
    with graph.quiet_tools():
        quantize_dynamic(
            model if fused else exported,
            file,
            op_types_to_quantize=["Attention", "Gemm", "MatMul"] if fused else ["Gemm", "MatMul"],
            per_channel=params.per_channel,
            weight_type=QuantType.QInt8,
            # Shapes are not inferred through fused nodes, but what comes out of them is float.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT} if fused else None,
        )
    if not fused:
        return dict(graph.kernels(file, context.threads))
    tables = fusion.shrink(file)
    return {**fused, "embeddings_int8": tables, **graph.kernels(file, context.threads)}
