"""ONNX Runtime with its CUDA provider, from the package onnxruntime-gpu.

Shapes' arithmetic may run on the processor, as ONNX Runtime wants it; a layer there is an error, and so is
a session that CUDA was left out of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.data import Spec
from components.session import CPU, CUDA, BuildError, OnnxSession, placement

FILE = "model.onnx"
# Without this CUDA multiplies float32 in TF32, of 10 bits' precision: fp32 would be none.
SESSION: dict[str, Any] = {"provider_options": {"use_tf32": "0"}}
DEVICE = True
HOST: tuple[str, ...] = ("gpu", "onnxruntime", "providers")
# Both packages bring the module onnxruntime, and the last one installed wins: one has to go first. The newest
# version of onnxruntime-gpu may lag behind onnxruntime's, so none is named.
REMEDY = "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
LAYERS = {"Attention", "Conv", "ConvTranspose", "Gemm", "MatMul"}


def needs(host: Mapping[str, Any]) -> str | None:
    if host["gpu"] is None:
        return "no CUDA device; run on a machine with an NVIDIA GPU and its driver"
    if "cuda" not in host["providers"]:
        return f"onnxruntime has no CUDA provider; on this machine: {REMEDY}"
    return None


def takes(card: Mapping[str, Any], size: int) -> bool:
    return True


def open(content: bytes, card: Mapping[str, Any], threads: int, spec: Spec, where: str) -> OnnxSession:
    session = OnnxSession(content, card.get("session", {}), threads, spec, where, CUDA)
    if layers := LAYERS & set(placement(session.opened).get(CPU, {})):
        raise BuildError(f"{where}: CUDA runs not all of it, the processor got {sorted(layers)}")
    return session
