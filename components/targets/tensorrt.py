"""TensorRT engines from strongly typed networks: the ONNX graph says the type of every tensor, TensorRT keeps it.

fp16: the graph converted to half precision, input and output float. int8: explicit symmetric Q/DQ pairs (int8
weights per channel, int8 activations with zero point 0, float biases) calibrated on the calibration split,
the rest half precision. One code path for TensorRT 10 and 11: 11 knows no other networks, and there the flag
that asks for them is ignored.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import NotMeasured, Refused

if TYPE_CHECKING:
    from components.graph import Context
    from components.params import TensorRt

log = logging.getLogger(__name__)

RUNTIME = "tensorrt"
WORKSPACE_BYTES = 1 << 30  # what a layer may use beside its tensors while it is chosen and while it runs


def typed(exported: Path, params: TensorRt, context: Context) -> bytes:
    """The ONNX file that TensorRT is given."""
    import onnx

    from components import graph

    with tempfile.TemporaryDirectory() as scratch:
        source = exported
        if params.precision == "int8":
            source = Path(scratch) / "quantized.onnx"
            graph.quantize(exported, source, context.calibration(params.rows), "minmax", per_channel=True, signed=True)
        model = graph.half(onnx.load(source))
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def run(exported: Path, params: TensorRt, context: Context, out: Path) -> dict[str, Any]:
    """Write model.engine and layers.json, what the engine inspector says of every layer; `key` says what for.

    Raises NotMeasured without TensorRT or a CUDA device, Refused for texts and for a graph that TensorRT cannot parse.
    """
    trt, cuda = libraries()
    device = gpu(cuda)
    if context.spec.vocabulary is not None:
        raise Refused("engines are built for images only so far; for texts take target onnx_cuda")
    content = typed(exported, params, context)
    messages: list[str] = []
    logger = collecting_logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise Refused(f"TensorRT {trt.__version__} cannot parse the graph: {errors[:300]}")

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector only tells names
    profile = builder.create_optimization_profile()
    least, best, greatest = ((size, *context.spec.shape) for size in params.batch_sizes)
    profile.set_shape("image", least, best, greatest)
    if config.add_optimization_profile(profile) < 0:
        raise Refused(f"TensorRT refuses the profile of batch sizes {params.batch_sizes}")
    timings = context.cache / (re.sub(r"[^A-Za-z0-9.]+", "-", f"{device}-{trt.__version__}") + ".timings")
    cache = config.create_timing_cache(timings.read_bytes() if timings.exists() else b"")
    config.set_timing_cache(cache, False)

    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"TensorRT {trt.__version__} could not build the engine: {'; '.join(messages)[-300:]}")
    serialized = bytes(engine)
    (out / "model.engine").write_bytes(serialized)
    write_timings(timings, bytes(config.get_timing_cache().serialize()))
    layers = inspect_layers(trt, logger, serialized, best)
    (out / "layers.json").write_text(json.dumps(layers, indent=2) + "\n", "utf-8")
    key = {
        "gpu": device,
        "tensorrt": trt.__version__,
        "onnx_sha256": hashlib.sha256(content).hexdigest(),
        "profile": list(params.batch_sizes),
    }
    return {"key": key, **count_layers(layers)}


def libraries() -> tuple[Any, Any]:
    """The modules tensorrt and cuda.bindings.runtime. Raises NotMeasured where one is missing."""
    try:
        import tensorrt
        from cuda.bindings import runtime
    except ImportError as error:
        raise NotMeasured(
            f"TensorRT is not installed ({error}); on a machine with a GPU: pip install '.[gpu]'"
        ) from None
    return tensorrt, runtime


def gpu(cuda: Any) -> str:
    """Name and compute capability of the first CUDA device. Raises NotMeasured where there is none."""
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess or not count:
        raise NotMeasured(f"no CUDA device ({error.name}); run on a machine with an NVIDIA GPU and its driver")
    error, properties = cuda.cudaGetDeviceProperties(0)
    if error != cuda.cudaError_t.cudaSuccess:
        raise RuntimeError(f"CUDA: {error.name}")
    return f"{properties.name.decode()} {properties.major}.{properties.minor}"


def collecting_logger(trt: Any, messages: list[str]) -> Any:
    """A TensorRT logger that keeps errors in `messages` and tells the rest to Python's logging."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                messages.append(message)
                log.warning("TensorRT: %s", message)
            elif severity == trt.ILogger.Severity.WARNING:
                log.info("TensorRT: %s", message)

    return Logger()


def write_timings(path: Path, content: bytes) -> None:
    """Keep what TensorRT measured, so that the next build on this GPU and version need not measure again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".aside")
    aside.write_bytes(content)
    aside.replace(path)


def inspect_layers(trt: Any, logger: Any, serialized: bytes, shape: tuple[int, ...]) -> list[Any]:
    """What the engine inspector says of every layer, for an image batch of this shape: without one it tells -1 for
    dimensions and no formats."""
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        raise RuntimeError("TensorRT cannot load the engine that it built")
    inspector, shaped = engine.create_engine_inspector(), engine.create_execution_context()
    shaped.set_input_shape("image", shape)
    inspector.execution_context = shaped
    told = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    layers: list[Any] = json.loads(told)["Layers"]
    return layers


def count_layers(layers: list[Any]) -> dict[str, Any]:
    """How many layers take an int8 input: {integer_nodes: by layer type, layers: all of them}."""
    integer: dict[str, int] = {}
    for layer in layers:
        if not isinstance(layer, dict):
            continue
        formats = [str(tensor.get("Format/Datatype", "")).lower() for tensor in layer.get("Inputs", [])]
        if any("int8" in text for text in formats):
            kind = str(layer.get("LayerType", "unknown"))
            integer[kind] = integer.get(kind, 0) + 1
    return {"integer_nodes": integer, "layers": len(layers)}
