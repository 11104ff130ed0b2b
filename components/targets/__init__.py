"""Model to file that ships. One file a target kind.

`run(exported, params, context, out) -> figures` writes the model file (model.onnx or model.engine) below
`out`; `exported` is the ONNX fp32 file that passed the gate. Raises Refused for what cannot be built and
NotMeasured for what cannot be built on this machine.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.graph import Context
from components.targets import onnx_fp32, onnx_int8_dynamic, onnx_int8_static, tensorrt

TARGETS: dict[str, Callable[[Path, Any, Context, Path], dict[str, Any]]] = {
    "onnx_fp32": onnx_fp32.run,
    "onnx_int8_dynamic": onnx_int8_dynamic.run,
    "onnx_int8_static": onnx_int8_static.run,
    "tensorrt": tensorrt.run,
}
