"""`temper doctor`: what this machine can and cannot do, each with its remedy."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from components import host
from components.runtimes import RUNTIMES, onnxruntime_cuda
from temper.workspace import console as wide

Level = Literal["ok", "note", "warn", "fail"]
STYLES: dict[Level, str] = {"ok": "green", "note": "dim", "warn": "yellow", "fail": "bold red"}
STANDS_IN = {"onnxruntime": "onnxruntime-gpu"}  # another package with the same module
LEAST_DISK_GB, LEAST_MEMORY_GB = 2.0, 3.0  # a digits run needs about half of each


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fail` means that Temper cannot work."""

    level: Level
    what: str
    found: str
    remedy: str = ""


def doctor() -> int:
    """Print every finding; 1 if one is a failure."""
    findings = [*interpreter(), *packages(), *programs(), *hardware(), *workspace(), *servers(), *promotions()]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        style = STYLES[finding.level]
        told = Text(finding.found)
        if finding.remedy:
            told.append(f"\n{finding.remedy}", style="italic" if finding.level == "note" else f"italic {style}")
        table.add_row(Text(finding.level, style=style), finding.what, told)
    console = wide()
    console.print(table)
    failures = sum(finding.level == "fail" for finding in findings)
    if failures:
        console.print(Text(f"{failures} of {len(findings)} checks failed: Temper cannot work here yet", "bold red"))
    else:
        console.print("Temper can work here.")
    return 1 if failures else 0


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


def workspace() -> Iterator[Finding]:
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").exists()), None)
    if root is None or not (root / "params.yaml").exists():
        yield Finding("warn", "workspace", f"{here} is not inside one", "cd to a folder with params.yaml and dvc.yaml")
        root = here
    else:
        yield Finding("ok", "workspace", str(root))
        yield from _dvc_and_git(root)
        yield from _params(root)
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        yield Finding("fail", "writable", f"{root}: {error.strerror}", "make it yours, or work in a copy")
    free_gb = shutil.disk_usage(root).free / 1e9
    enough = free_gb >= LEAST_DISK_GB
    remedy = "" if enough else f"a run wants {LEAST_DISK_GB:.0f} GB; `temper gc` frees old results"
    yield Finding("ok" if enough else "fail", "disk", f"{free_gb:.0f} GB free", remedy)


def _dvc_and_git(root: Path) -> Iterator[Finding]:
    if not (root / ".dvc").is_dir():
        yield Finding("fail", "DVC", f"{root} is not initialised", "run `dvc init`")
    inside = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=root, capture_output=True, check=False)
    if inside.returncode:
        remedy = "git init && git add -A && git commit; versions then name the commit that made them"
        yield Finding("warn", "git", f"{root} is not in a repository", remedy)


def _params(root: Path) -> Iterator[Finding]:
    from components import params
    from components.errors import ParamsError

    try:
        loaded = params.load(root / "params.yaml")
    except ParamsError as error:
        yield Finding("fail", "params.yaml", f"{len(error.errors)} mistakes", "\n".join(error.errors))
        return
    cells = len(loaded.variants) * len(loaded.targets)
    yield Finding(
        "ok",
        "params.yaml",
        f"{loaded.name}: {len(loaded.variants)} variants x {len(loaded.targets)} targets = {cells} cells",
    )
    cores = host.describe()["cores"]
    if loaded.threads > cores:
        remedy = f"set threads to at most {cores}; it changes the bytes of models, so do it before the first run"
        yield Finding("warn", "threads", f"params.yaml asks for {loaded.threads} on {cores} cores", remedy)
    with contextlib.chdir(root):
        yield from list(_signing(loaded.name, loaded.policy.signing.model_dump() if loaded.policy.signing else {}))


def _signing(name: str, policy: dict[str, Any]) -> Iterator[Finding]:
    """The keys, and whether the champion is as it was registered."""
    from components import package, registry, signing
    from components.errors import ParamsError, TemperError

    try:
        keys = signing.configured(policy)
    except ParamsError as error:
        yield Finding("fail", "signing", str(error))
        return
    if keys.verifies:
        does = "signs and verifies" if keys.private else "verifies; nothing is signed here without the private key"
        yield Finding("ok", "signing", f"key {keys.fingerprint} {does}")
    else:
        remedy = "`temper key` makes a pair: who can write to the store could then no longer change a version unseen"
        yield Finding("note", "signing", "no key: versions are unsigned", remedy)
    try:
        champion = registry.registered(name).aliases.get("champion")
        if champion is None:
            return
        with package.verified(name, champion, keys) as found:
            unsigned = found.signed == package.UNSIGNED
            remedy = "`temper sign` signs it with TEMPER_SIGNING_KEY" if unsigned else ""
            told = f"version {champion} is as it was registered, {found.signed}"
            yield Finding("note" if unsigned else "ok", "champion", told, remedy)
    except TemperError as error:
        said, _, remedy = str(error).partition("; ")
        yield Finding("fail", "champion", said, remedy)


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


def promotions() -> Iterator[Finding]:
    """Journal, aliases and the files behind them, of the model that params.yaml names."""
    from components import params, registry
    from components.errors import TemperError
    from components.rollback import troubles

    try:
        name = params.load().name
        wrong = list(troubles(name))
        champion = registry.registered(name).aliases.get("champion")
    except (TemperError, OSError) as error:
        yield Finding("warn", "promotions", f"cannot be checked: {' '.join(str(error).split())[:200]}")
        return
    for what, remedy in wrong:
        yield Finding("warn", "promotions", what, remedy)
    if not wrong:
        yield Finding(
            "ok", "promotions", f"{name}: " + (f"version {champion} is the champion" if champion else "none yet")
        )


def _reachable(variable: str, title: str, name: str, port: int) -> Finding:
    try:
        with socket.create_connection((name, port), timeout=3):
            return Finding("ok", title, f"{name}:{port} answers")
    except OSError as error:
        return Finding("fail", title, f"{name}:{port} does not answer ({error})", f"start it, or unset {variable}")
