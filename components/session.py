"""What opens a build: a runtime gives a `Session`, which answers raw inputs and refuses what it does not take.

Here is what runtimes share, and ONNX Runtime's own sessions, on the processor or a device.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from components.data import Spec
from components.errors import TemperError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Found to be best on the ONNX files tried: the fused kernel of SkipLayerNorm is slower than its parts, and threads that
# spin while a call runs, and stop with it, are woken sooner. For all builds alike: a reference that waits flatters.
ONNX_SESSION: dict[str, Any] = {"disabled_optimizers": ["SkipLayerNormFusion"], "spins": True}


class BuildError(TemperError):
    """A build folder is not what it says it is, cannot be opened here, or is fed what it does not take."""


class Session(Protocol):
    """An open build."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raw inputs, each as the spec has it, first axis the batch, to logits, float32 (batch, classes)."""
        ...


class Runtime(Protocol):
    """What a module of components/runtimes/ offers."""

    FILE: str  # the model file's name
    SESSION: dict[str, Any]  # options found to be best; they ship in build.json
    DEVICE: bool  # whether it needs more than the processor: stage engine makes its builds, not stage build
    HOST: tuple[str, ...]  # the fields of host.json that its answers hang on

    def needs(self, host: Mapping[str, Any]) -> str | None:
        """Why it cannot run on the machine of this host.json, and what would change that; None if it can."""
        ...

    def takes(self, card: Mapping[str, Any], size: int) -> bool:
        """Whether the build of this build.json is made for batches of this size."""
        ...

    def open(self, content: bytes, card: Mapping[str, Any], threads: int, spec: Spec, where: str) -> Session:
        """Raises BuildError, which begins with `where`, for a file that it cannot open."""
        ...


def check_inputs(inputs: Mapping[str, np.ndarray], spec: Spec, where: str) -> dict[str, np.ndarray]:
    """The inputs in the order of the spec; raises BuildError if one is not as the spec has it, or has no row."""
    if inputs.keys() != spec.inputs.keys():
        raise BuildError(f"{where}: takes {', '.join(spec.inputs)}, got {', '.join(sorted(inputs)) or 'nothing'}")
    found = {name: inputs[name] for name in spec.inputs}
    first = next(iter(found.values())).shape
    for name, array in found.items():
        right = array.ndim == len(spec.shape) + 1 and array.dtype == spec.inputs[name] and array.shape == first
        fits = array.shape[1:] == tuple(spec.shape)
        if spec.vocabulary is not None and right:
            fits = 1 <= array.shape[1] <= spec.shape[0]
        if not (right and fits and len(array)):
            rows = ", ".join([f"length <= {spec.shape[0]}"] if spec.vocabulary else map(str, spec.shape))
            raise BuildError(f"{where}: {name} must be {spec.inputs[name]} (batch, {rows}), got {_of(array)}")
    return found


def _of(array: np.ndarray) -> str:
    return f"{array.dtype} {tuple(array.shape)}"


def onnx_session(
    content: bytes,
    session: Mapping[str, Any],
    threads: int,
    optimized: Path | None = None,
    provider: str = CPU,
    profile: Path | None = None,
) -> Any:
    """An onnxruntime.InferenceSession; writes the optimised graph to `optimized` if given, and with `profile`, what
    the names of its files begin with, notes every node that it runs, until `end_profiling()`.

    `session`: disabled_optimizers, spins (threads, while a call runs), provider_options. Raises BuildError where there
    is no such provider or it does not load: ONNX Runtime would take the processor without a word.
    """
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        raise BuildError(f"onnxruntime {ort.__version__} has no {provider}; it can be {ort.get_available_providers()}")
    missing = _preload(ort) if provider == CUDA else ""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin between calls slow down whatever runs in turn with this session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if session.get("spins") else "0")
    if session.get("spins"):
        options.add_session_config_entry("session.force_spinning_stop", "1")
    # Weights in other files would be looked for here, where no file can be: given bytes, ONNX Runtime takes the
    # working directory and follows hard links.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/dev/null/none")
    if provider != CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized:
        options.optimized_model_filepath = str(optimized)
    disabled = session.get("disabled_optimizers")
    opened = ort.InferenceSession(
        content,
        options,
        providers=[(provider, dict(session.get("provider_options", {})))],
        enable_fallback=0,  # neither here nor in a later call
        **({"disabled_optimizers": disabled} if disabled else {}),
    )
    # A provider whose libraries do not load is left out even so.
    if opened.get_providers()[0] != provider:
        reason = f": {missing}" if missing else ""
        raise BuildError(
            f"onnxruntime {ort.__version__} could not load {provider}{reason}; "
            f"install what it is made for, here CUDA {ort.cuda_version or 'none'}, and the GPU's driver"
        )
    return opened


def _preload(ort: Any) -> str:
    """Load CUDA and cuDNN from the Python packages that bring them, if there are any; what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    return " ".join(said.getvalue().split())[:200]


def placement(opened: Any) -> dict[str, dict[str, int]]:
    """Of a session on a device: how many nodes each provider runs, by operator; shapes are the processor's."""
    placed: dict[str, Counter[str]] = {}
    for part in opened.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return {provider: dict(sorted(counts.items())) for provider, counts in sorted(placed.items())}


class OnnxSession:
    """A `Session` on ONNX Runtime; from the host's memory and back to it, whatever the device."""

    def __init__(
        self,
        content: bytes,
        session: Mapping[str, Any],
        threads: int,
        spec: Spec,
        where: str,
        provider: str = CPU,
    ) -> None:
        try:
            self.opened = onnx_session(content, session, threads, provider=provider)
        except BuildError as error:
            raise BuildError(f"{where}: {error}") from None
        except Exception as error:  # ONNX Runtime has many classes for broken files
            reason = " ".join(str(error).split())[:300]
            raise BuildError(f"{where}: ONNX Runtime cannot open it: {reason}; build it again") from error
        self._spec, self._where = spec, where
        rows = ["length"] if spec.vocabulary else spec.shape
        kinds = {"float32": "tensor(float)", "int64": "tensor(int64)"}
        wanted = {name: [kinds[dtype], *rows] for name, dtype in spec.inputs.items()}
        names = {node.name: [node.type, *node.shape[1:]] for node in self.opened.get_inputs()}
        if names != wanted:
            raise BuildError(f"{where}: must take {wanted}, its graph takes {names}")
        if [node.name for node in self.opened.get_outputs()] != ["logits"]:
            raise BuildError(f"{where}: must answer logits, its graph answers something else")

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        logits: np.ndarray = self.opened.run(["logits"], check_inputs(inputs, self._spec, self._where))[0]
        return logits
