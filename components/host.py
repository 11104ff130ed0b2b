"""This machine: what it is, as far as results depend on it, and how Temper behaves on it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.scratch import MACHINE_ROOT

log = logging.getLogger("temper")

QUIET = {  # everything phones home by default; nothing here may
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
# A thread that waits spins briefly, then sleeps: spinning long (the default) slows what runs beside it twofold and
# more, sleeping at once slows a training that is alone by a third.
WAITING = {"GOMP_SPINCOUNT": "1000"}
# Instruction sets that decide which integer and half-precision kernels a runtime picks.
ISA = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "avx_vnni_int8", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "sve"),
)
# What decides the bytes that stages make, and the packages that bring it; dvc.yaml says which stage hangs on which.
LIBRARIES = {
    **{name: (name,) for name in ("kornia", "onnx", "onnxscript", "peft", "tokenizers", "torch", "transformers")},
    "great_expectations": ("great-expectations",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "torch_pruning": ("torch-pruning",),
}


def machine_lock_path() -> Path:
    """One for all checkouts: the stages of two of them would disturb each other's clocks."""
    return MACHINE_ROOT / f"temper-machine-{os.getuid()}.lock"


@contextlib.contextmanager
def machine_lock(mode: int | None, what: str) -> Iterator[None]:
    """Hold the machine-wide lock (fcntl.LOCK_EX, LOCK_SH, None: not at all); says so when it has to wait."""
    if mode is None:
        yield
        return
    path = machine_lock_path()
    with path.open("w") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting until %s is free", what, path)
            fcntl.flock(file, mode)
        yield


def machine_is_taken() -> bool:
    """Whether a stage that must be alone is running: others then keep still."""
    with machine_lock_path().open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def describe() -> dict[str, Any]:
    """Processor, instruction sets, cores, GPU, driver, libraries; nothing that changes by itself (load, clock)."""
    gpu, driver = _gpu()
    return {
        "machine": _processor(),
        "isa": [flag for flag in ISA if flag in _cpu_flags()],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu,
        "driver": driver,
        "providers": _providers(),
        **{name: _version(packages) for name, packages in LIBRARIES.items()},
    }


def _cpuinfo(*keys: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in keys:
                return value.strip()
    return ""


def _processor() -> str:
    return f"{platform.machine()} {_cpuinfo('model name', 'CPU part') or platform.processor()}".strip()


def _cpu_flags() -> set[str]:
    return set(_cpuinfo("flags", "Features").split())


def _gpu() -> tuple[str | None, str | None]:
    """(name and compute capability, driver version) of the first GPU that CUDA would use."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, None
    query = [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    parts = [part.strip() for part in answer.stdout.partition("\n")[0].split(",")]
    if answer.returncode or len(parts) != 3:
        return None, None
    return f"{parts[0]} (compute {parts[1]})", parts[2]


def _version(packages: Iterable[str]) -> str | None:
    """Without what tells builds of one version apart (2.13.0+cpu): results may be shared between them."""
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            return version(package).partition("+")[0]
    return None


def _providers() -> list[str]:
    """What ONNX Runtime's installed package can run on, by the libraries in it: importing it would take a while."""
    found = find_spec("onnxruntime")
    folders = (found.submodule_search_locations if found else None) or []
    cuda = any(Path(folder, "capi", "libonnxruntime_providers_cuda.so").exists() for folder in folders)
    return ["cpu", *(["cuda"] if cuda else [])] if folders else []
