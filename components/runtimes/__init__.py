"""What opens a build. One file a runtime; see `components.session.Runtime` for what it offers.

build.json names its runtime; a target says in RUNTIME by which its builds are opened.
"""

from components.runtimes import onnxruntime, onnxruntime_cuda, tensorrt
from components.session import Runtime

RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": onnxruntime,
    "onnxruntime_cuda": onnxruntime_cuda,
    "tensorrt": tensorrt,
}
