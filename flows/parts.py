"""The parts of `temper up`: which program, with which environment, and when it is ready. All of it on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from components import registry
from components.errors import ParamsError, TemperError
from components.host import QUIET
from flows import agenda, server
from flows.group import Group
from flows.supervise import Part

PREFECT_PORT, MLFLOW_PORT = 4200, 5000
MLFLOW = QUIET | {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, for features not used here
}
READY = "temper: polling"  # what the runner prints once
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
BACKEND = "MLFLOW_BACKEND_STORE_URI"
PROBE_S = 5.0


def environment() -> dict[str, str]:
    """What each part starts from: nothing of another server, nothing sent anywhere; `python` is this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    named = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")
    return {key: value for key, value in os.environ.items() if key not in named} | QUIET | {"PATH": path}


def prefect(group: Group) -> Part:
    env = server.settings() | {"PREFECT_UI_ENABLED": "true", "PREFECT_UI_API_URL": f"{group.prefect}/api"}
    env["PREFECT_SERVER_API_AUTH_STRING"] = group.password
    return Part(
        "prefect",
        server.command(group.prefect_port or 0),
        environment() | env,
        _lets_us_in(group),
    )


def check_database() -> None:
    """Raises ParamsError if what is to keep Prefect's runs is no address, or does not answer."""
    if not (given := os.environ.get(DATABASE)):
        return
    try:
        parts = urlsplit(given)
        where, number = parts.hostname, parts.port or 5432
    except ValueError:  # a port that is none, a bracket that is open
        where, number = None, 0
    if given.startswith("sqlite+aiosqlite:///"):
        return
    if not given.startswith("postgresql+asyncpg://") or not where:
        shape = "postgresql+asyncpg://user:password@host:port/database"
        raise ParamsError([f"{DATABASE}: must be {shape}; unset it to keep Prefect's runs in .temper/prefect"])
    try:
        socket.create_connection((where, number), PROBE_S).close()
    except OSError as error:
        raise ParamsError(
            [f"{DATABASE}: {where}:{number} does not answer ({error}); start that server, or unset the variable"]
        ) from None


def mlflow_command(port: int) -> list[str]:
    """MLflow's own server; names other than loopback's are refused, and pages of other sites.

    Its store is in the environment, BACKEND: an address may hold a password, and everybody can read arguments.
    """
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]
    words += ["--artifacts-destination", str(registry.mlruns() / "artifacts")]
    return [sys.executable, *words]


def mlflow(group: Group) -> Part:
    store = os.environ.get(BACKEND) or registry.address()
    return Part(
        "mlflow",
        mlflow_command(group.mlflow_port or 0),
        environment() | MLFLOW | {BACKEND: store},
        _answers(f"{group.mlflow}/health"),
    )


def runner(group: Group, root: Path) -> Part:
    env = server.settings() | {"PREFECT_API_URL": f"{group.prefect}/api", "PREFECT_API_AUTH_STRING": group.password}
    env |= {"TEMPER_CHECKOUT": str(root), "PYTHONUNBUFFERED": "1", "PREFECT_LOGGING_LEVEL": "INFO"}
    env["TEMPER_MLFLOW"] = group.mlflow
    if group.tracks:
        env["MLFLOW_TRACKING_URI"] = group.mlflow
    return Part("runner", [sys.executable, "-m", "flows.worker"], environment() | env, _said(READY))


def _lets_us_in(group: Group) -> Callable[[Path], bool]:
    """Not another group's server, which took the port a moment before: ours ends then, and says so."""

    def ready(log: Path) -> bool:
        with contextlib.suppress(TemperError):
            agenda.ask(f"{group.prefect}/api", group.password, "/admin/version")
            return True
        return False

    return ready


def _answers(address: str) -> Callable[[Path], bool]:
    def ready(log: Path) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310  # our own loopback address
                return True
        return False

    return ready


def _said(words: str) -> Callable[[Path], bool]:
    return lambda log: log.exists() and words in log.read_text("utf-8", errors="replace")


def port(flag: str, given: int | None, kept: int | None, usual: int, taken: Mapping[str, int]) -> int:
    """A free port on loopback: the one asked for, else that of the last time, else the usual one, else any.

    Raises ParamsError if the one asked for is taken, or if none is free.
    """
    others = set(taken.values())
    if given is not None:
        if given in others or (why := _taken(given)):
            raise ParamsError([f"{flag} {given}: {'given twice' if given in others else why}; take another"])
        return given
    for candidate in (kept, usual, 0):
        if candidate is None or candidate in others or _taken(candidate):
            continue
        return candidate or _any()
    raise ParamsError([f"{flag}: no port on 127.0.0.1 is free; end a program that listens"])


def _taken(number: int) -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            return f"127.0.0.1 has it taken ({error.strerror})"
    return ""


def _any() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
