"""TensorRT's engines, on the first CUDA device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.data import Spec
from components.session import BuildError, check_inputs

FILE = "model.engine"
SESSION: dict[str, Any] = {}
DEVICE = True
HOST: tuple[str, ...] = ("gpu", "tensorrt")


def needs(host: Mapping[str, Any]) -> str | None:
    if host["gpu"] is None:
        return "no CUDA device; run on a machine with an NVIDIA GPU and its driver"
    if host["tensorrt"] is None:
        return "TensorRT is not installed; on this machine: pip install '.[gpu]'"
    return None


def takes(card: Mapping[str, Any], size: int) -> bool:
    """An engine's profile has a least, a best and a greatest batch size."""
    least, _, greatest = card["key"]["profile"]
    return bool(least <= size <= greatest)


def open(content: bytes, card: Mapping[str, Any], threads: int, spec: Spec, where: str) -> EngineSession:
    return EngineSession(content, card.get("key", {}), spec, where)


class EngineSession:
    """A `Session` on a TensorRT engine; batches outside its profile are split or filled up."""

    def __init__(self, content: bytes, key: Mapping[str, Any], spec: Spec, where: str) -> None:
        try:
            import tensorrt as trt
            from cuda.bindings import runtime as cuda
        except ImportError as error:
            raise BuildError(f"{where}: needs TensorRT and cuda-bindings ({error}): pip install '.[gpu]'") from error
        if key.get("tensorrt") != trt.__version__:
            raise BuildError(
                f"{where}: was built by TensorRT {key.get('tensorrt')}, here is {trt.__version__}; build it again"
            )
        self._spec, self._where, self._cuda = spec, where, cuda
        self._shape, self._classes = tuple(spec.shape), len(spec.classes)
        # TensorRT's objects must live as long as what they made.
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BuildError(
                f"{where}: TensorRT cannot load it here; it was built for {key.get('gpu')}; build it again"
            )
        self._least, _, self._greatest = (dims[0] for dims in self._engine.get_tensor_profile_shape("image", 0))
        self._context = self._engine.create_execution_context()
        self._stream = self._done(cuda.cudaStreamCreate())
        pixels, floats = int(np.prod(self._shape)), self._greatest * np.dtype(np.float32).itemsize
        self._image = self._done(cuda.cudaMalloc(floats * pixels))
        self._logits = self._done(cuda.cudaMalloc(floats * self._classes))
        self._context.set_tensor_address("image", int(self._image))
        self._context.set_tensor_address("logits", int(self._logits))

    def _done(self, answer: tuple[Any, ...]) -> Any:
        """What a CUDA call answered; raises on its error."""
        error, *rest = answer
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise RuntimeError(f"{self._where}: CUDA: {error}")
        return rest[0] if rest else None

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        image = check_inputs(inputs, self._spec, self._where)["image"]
        return np.concatenate(
            [self._batch(image[i : i + self._greatest]) for i in range(0, len(image), self._greatest)]
        )

    def _batch(self, image: np.ndarray) -> np.ndarray:
        rows = len(image)
        image = np.ascontiguousarray(np.resize(image, (max(rows, self._least), *self._shape)))
        logits = np.empty((len(image), self._classes), np.float32)
        kind, cuda = self._cuda.cudaMemcpyKind, self._cuda
        if not self._context.set_input_shape("image", tuple(image.shape)):
            raise RuntimeError(f"{self._where}: TensorRT refuses the shape {image.shape}")
        to_device, to_host = kind.cudaMemcpyHostToDevice, kind.cudaMemcpyDeviceToHost
        self._done(cuda.cudaMemcpyAsync(self._image, image.ctypes.data, image.nbytes, to_device, self._stream))
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeError(f"{self._where}: TensorRT could not run a batch of {len(image)}")
        self._done(cuda.cudaMemcpyAsync(logits.ctypes.data, self._logits, logits.nbytes, to_host, self._stream))
        self._done(cuda.cudaStreamSynchronize(self._stream))
        return logits[:rows]

    def __del__(self) -> None:
        for name, free in (("_image", "cudaFree"), ("_logits", "cudaFree"), ("_stream", "cudaStreamDestroy")):
            if (held := getattr(self, name, None)) is not None:
                getattr(self._cuda, free)(held)
