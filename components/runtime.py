"""A build as it ships: a folder with the model file and build.json, opened by the runtime that it names.

build.json: {kind, runtime: "onnxruntime" | "tensorrt", file, sha256, session: options found to be best, spec},
for an engine also `key`: what it was made for. Nothing outside the folder is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from components.data import Spec
from components.errors import TemperError
from components.hashing import sha256_file

# Found to be best on every ONNX file tried: the fused kernel of SkipLayerNorm is slower than its parts.
ONNX_SESSION: dict[str, Any] = {"disabled_optimizers": ["SkipLayerNormFusion"]}


class BuildError(TemperError):
    """A build folder is not what it says it is, or is fed what it does not take."""


class Session(Protocol):
    """An open build."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raw inputs, float32 (batch, *shape) each, to logits, float32 (batch, classes)."""
        ...


def write_build(
    folder: Path, kind: str, runtime: str, file: str, session: Mapping[str, Any], spec: Spec, **more: Any
) -> dict[str, Any]:
    """Write build.json beside the model file; returns {bytes, digest} of what ships."""
    card = {
        "kind": kind,
        "runtime": runtime,
        "file": file,
        "sha256": sha256_file(folder / file),
        "session": dict(session),
        "spec": spec.model_dump(),
        **more,
    }
    (folder / "build.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", "utf-8")
    return {"bytes": (folder / file).stat().st_size, "digest": digest(folder)}


def digest(folder: Path) -> str:
    """Identity of what ships: one hash over the model file and build.json."""
    card = json.loads((folder / "build.json").read_text("utf-8"))
    total = hashlib.sha256()
    for name in (_plain(folder, card), "build.json"):
        total.update(f"{name}\0{sha256_file(folder / name)}\n".encode())
    return total.hexdigest()


def _plain(folder: Path, card: Mapping[str, Any]) -> str:
    name = card["file"]
    if not isinstance(name, str) or Path(name).name != name or (folder / name).is_symlink():
        raise BuildError(f"{folder}/build.json: file must name a file in this folder, got {name!r}; build it again")
    return name


def open_build(folder: Path, threads: int) -> Session:
    """Open the build in `folder`. Raises BuildError if it is broken, changed, or reads what lies outside."""
    try:
        card = json.loads((folder / "build.json").read_text("utf-8"))
        spec, name = Spec.model_validate(card["spec"]), _plain(folder, card)
        content = (folder / name).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{folder}: is no build: {' '.join(str(error).split())[:200]}; build it again") from error
    found = hashlib.sha256(content).hexdigest()
    if card.get("sha256", found) != found:
        raise BuildError(
            f"{folder}/{name}: its sha256 is {found[:12]}, build.json says {card['sha256'][:12]}: "
            f"the file was changed after it was built; build it again"
        )
    if card.get("runtime") == "onnxruntime":
        return OnnxSession(content, card.get("session", {}), threads, spec, f"{folder}/{name}")
    if card.get("runtime") == "tensorrt":
        return EngineSession(content, card.get("key", {}), spec, f"{folder}/{name}")
    raise BuildError(f"{folder}/build.json: runtime must be onnxruntime or tensorrt, got {card.get('runtime')!r}")


def check_inputs(inputs: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.ndarray:
    """The one input, `image`; raises BuildError if it is not float32 (batch >= 1, *shape)."""
    image = inputs.get("image")
    if image is None or len(inputs) != 1:
        raise BuildError(f"{where}: takes the input image, got {sorted(inputs)}")
    if image.dtype != np.float32 or image.shape[1:] != shape or not len(image):
        raise BuildError(f"{where}: image must be float32 (batch, {', '.join(map(str, shape))}), got {_of(image)}")
    return image


def _of(array: np.ndarray) -> str:
    return f"{array.dtype} {tuple(array.shape)}"


def onnx_session(content: bytes, session: Mapping[str, Any], threads: int, optimized: Path | None = None) -> Any:
    """An onnxruntime.InferenceSession on the CPU; writes the optimised graph to `optimized` if given."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait slow down whatever runs in turn with this session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in other files would be looked for here, where no file can be: given bytes, ONNX Runtime takes the
    # working directory and follows hard links.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/dev/null/none")
    if optimized:
        options.optimized_model_filepath = str(optimized)
    disabled = session.get("disabled_optimizers")
    return ort.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], **({"disabled_optimizers": disabled} if disabled else {})
    )


class OnnxSession:
    """A `Session` on ONNX Runtime's CPU provider."""

    def __init__(self, content: bytes, session: Mapping[str, Any], threads: int, spec: Spec, where: str) -> None:
        try:
            self._session = onnx_session(content, session, threads)
        except Exception as error:  # ONNX Runtime has many classes for broken files
            reason = " ".join(str(error).split())[:300]
            raise BuildError(f"{where}: ONNX Runtime cannot open it: {reason}; build it again") from error
        self._shape, self._where = tuple(spec.shape), where
        names = {node.name: [node.type, *node.shape[1:]] for node in self._session.get_inputs()}
        if names != {"image": ["tensor(float)", *spec.shape]}:
            raise BuildError(f"{where}: must take image, float32 (batch, {spec.shape}), its graph takes {names}")
        if [node.name for node in self._session.get_outputs()] != ["logits"]:
            raise BuildError(f"{where}: must answer logits, its graph answers something else")

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        image = check_inputs(inputs, self._shape, self._where)
        logits: np.ndarray = self._session.run(["logits"], {"image": image})[0]
        return logits


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
        self._shape, self._classes, self._where, self._cuda = tuple(spec.shape), len(spec.classes), where, cuda
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
        image = check_inputs(inputs, self._shape, self._where)
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
