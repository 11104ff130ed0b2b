"""ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.data import Spec
from components.session import ONNX_SESSION, OnnxSession

FILE = "model.onnx"
SESSION = ONNX_SESSION
DEVICE = False
# INT8 sums saturate or not depending on the instruction set: another machine may answer otherwise.
HOST: tuple[str, ...] = ("machine", "isa", "onnxruntime")


def needs(host: Mapping[str, Any]) -> str | None:
    return None


def takes(card: Mapping[str, Any], size: int) -> bool:
    return True


def open(content: bytes, card: Mapping[str, Any], threads: int, spec: Spec, where: str) -> OnnxSession:
    return OnnxSession(content, card.get("session", {}), threads, spec, where)
