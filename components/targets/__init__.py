"""Model to file that ships. One file a target kind, which imports nothing heavy: observe asks it for its RUNTIME.

`run(exported, params, context, out) -> figures` writes the runtime's model file below `out`; `exported` is the
ONNX fp32 file that passed the gate. A figure `key`, what the file was made for, goes into build.json, and so
does `session`, the options with which it is best opened, if they are not its runtime's. Raises Refused for what
cannot be built and NotMeasured for what cannot be built on this machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.targets import onnx_cuda, onnx_fp16, onnx_fp32, onnx_int8_dynamic, onnx_int8_static, tensorrt

if TYPE_CHECKING:
    from components.graph import Context


class Maker(Protocol):
    """What a module of this package offers."""

    RUNTIME: str  # in RUNTIMES: what opens its builds

    def run(self, exported: Path, params: Any, context: Context, out: Path) -> dict[str, Any]: ...


TARGETS: dict[str, Maker] = {
    "onnx_fp32": onnx_fp32,
    "onnx_fp16": onnx_fp16,
    "onnx_int8_dynamic": onnx_int8_dynamic,
    "onnx_int8_static": onnx_int8_static,
    "onnx_cuda": onnx_cuda,
    "tensorrt": tensorrt,
}
