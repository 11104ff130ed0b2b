"""What `temper doctor` finds of the machine: interpreter, packages, programs, hardware, servers."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from components import host
from components.runtimes import RUNTIMES, onnxruntime_cuda
from temper.findings import Finding, Level

STANDS_IN = {"onnxruntime": "onnxruntime-gpu"}  # another package with the same module
LEAST_MEMORY_GB = 3.0  # a digits run needs about half of it


def interpreter() -> Iterator[Finding]:
    version = platform.python_version()
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "ok" if ok else "fail", "Python", f"{version} ({sys.executable})", "" if ok else "use Python 3.11, 3.12 or 3.13"
    )
    system = platform.system()
    if system != "Linux":
        found = f"{system}: kill -9 may leave a stage running"
        yield Finding("warn", "system", found, "run on Linux where nobody watches the runs")


def packages(name: str = "temper") -> Iterator[Finding]:
    """Installed versions against what the package declares."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        yield Finding(
            "fail", "packages", f"{name} is not installed in this Python", "run `make run` or `pip install -e .`"
        )
        return
    good = 0
    for requirement in declared:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if (other := STANDS_IN.get(requirement.name)) and (version := _version(other)):
            if installed is None:
                good += 1
                yield Finding("note", requirement.name, f"{other} {version} stands in for {requirement}")
            else:
                found = f"{installed} and {other} {version} share their files: the one installed last hides the other"
                yield Finding("warn", requirement.name, found, onnxruntime_cuda.REMEDY)
            continue
        if installed is None:
            yield Finding(
                "fail", requirement.name, f"missing, needs {requirement.specifier or 'any version'}", "run `make run`"
            )
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            good += 1
        else:
            found = f"{installed}, but tried and declared is {requirement.specifier}"
            yield Finding(
                "fail", requirement.name, found, "delete .venv and run `make run`, or pip install the declared one"
            )
    shown = ", ".join(f"{tool} {_version(tool)}" for tool in ("dvc", "prefect", "mlflow", "torch", "onnxruntime"))
    yield Finding("ok", "packages", f"{good} as declared: {shown}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def programs() -> Iterator[Finding]:
    for program in ("git", "make"):
        path = shutil.which(program)
        level: Level = "ok" if path else "fail" if program == "git" else "warn"
        yield Finding(
            level, program, path or "not found", "" if path else f"install {program} with the system's packages"
        )


def hardware() -> Iterator[Finding]:
    import psutil

    found = host.describe()
    load = os.getloadavg()[0]
    busy = load > found["cores"] * 0.5
    remedy = "timings are taken in turn, but a quiet machine gives narrower intervals" if busy else ""
    yield Finding(
        "note" if busy else "ok", "processor", f"{found['machine']}, {found['cores']} cores, load {load:.1f}", remedy
    )
    isa = set(found["isa"])
    vnni = isa & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
    if vnni:
        yield Finding("ok", "integer kernels", ", ".join(found["isa"]))
    else:
        remedy = "INT8 builds may be no faster here; measure on the machine that will serve"
        yield Finding("warn", "integer kernels", f"no VNNI, AMX or dot product ({', '.join(isa) or 'none'})", remedy)
    if not isa & {"amx_int8"}:
        yield Finding("note", "AMX", "none", "batches on fourth-generation Xeons and later profit from it")
    memory_gb = psutil.virtual_memory().available / 1e9
    yield Finding(
        "ok" if memory_gb >= LEAST_MEMORY_GB else "warn",
        "memory",
        f"{memory_gb:.1f} GB free",
        "" if memory_gb >= LEAST_MEMORY_GB else f"close something: a run wants {LEAST_MEMORY_GB:.0f} GB",
    )
    yield from _devices(found)


def _devices(found: dict[str, Any]) -> Iterator[Finding]:
    """The GPU, and every runtime that needs more than the processor."""
    gpu = found["gpu"]
    if gpu is None:
        remedy = "cells that need one read `not measured`; everything else runs on the processor"
        yield Finding("note", "GPU", "none", remedy)
    else:
        yield Finding("ok", "GPU", f"{gpu}, driver {found['driver']}")
    for name, runtime in RUNTIMES.items():
        if not runtime.DEVICE:
            continue
        reason, _, remedy = (runtime.needs(found) or "").partition("; ")
        if not reason:
            yield Finding("ok", name, ", ".join(f"{field} {found[field]}" for field in runtime.HOST))
        elif gpu is not None:
            yield Finding("warn", name, f"{reason}: its cells read `not measured`", remedy)
        else:
            yield Finding("note", name, "of use only with a GPU")


def servers() -> Iterator[Finding]:
    """Servers that the environment names, and the port that `temper ui` wants."""
    for variable, title, fallback in (
        ("PREFECT_API_URL", "Prefect server", "none named: each run starts its own for as long as it lasts"),
        ("MLFLOW_TRACKING_URI", "MLflow server", "none named: runs are tracked in mlruns/"),
    ):
        address = os.environ.get(variable, "")
        parts = urlsplit(address)
        if not address:
            yield Finding("note", title, fallback)
        elif parts.scheme not in ("http", "https"):
            yield Finding("ok", title, f"{variable} names a local store: {re.sub('//.*@', '//***@', address)}")
        else:
            yield _reachable(
                variable, title, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 5000))
        except OSError:
            yield Finding("note", "port 5000", "taken", "temper ui --port 5001")


def _reachable(variable: str, title: str, name: str, port: int) -> Finding:
    try:
        with socket.create_connection((name, port), timeout=3):
            return Finding("ok", title, f"{name}:{port} answers")
    except OSError as error:
        return Finding("fail", title, f"{name}:{port} does not answer ({error})", f"start it, or unset {variable}")
