"""`temper ui`: MLflow's own server on the store, on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from rich.console import Console

from components import registry
from components.errors import TemperError
from flows import group, parts

PATIENCE_S = 120.0
LOG = Path(".temper/logs/ui.log")
# MLflow starts processes of its own; this ends them all when the pipe that we hold closes, be it by kill -9.
REAPER = """import contextlib, os, sys
sys.stdin.read()
with contextlib.suppress(ProcessLookupError):
    os.killpg(int(sys.argv[1]), 9)"""


def ui(port: int) -> int:
    """Serve until Ctrl-C. Raises TemperError if the port is taken, there is nothing to show, or it does not start."""
    console = Console()
    if running := group.up(registry.root()):
        console.print(f"`temper up` shows the runs: [link]{running.mlflow}[/link]")
        return 0
    where = registry.address()
    if where.startswith("http"):
        console.print(f"The runs are on the server that MLFLOW_TRACKING_URI names: {where}")
        return 0
    store = registry.database()
    if store is None or not store.exists():
        raise TemperError("nothing is tracked yet; `temper run` makes the first run")
    registry.check_schema(store)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TemperError(
                f"port {port} on 127.0.0.1: {error.strerror}; take another: temper ui --port {port % 65535 + 1}"
            ) from None
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            parts.mlflow_command(port),
            env={**os.environ, **parts.MLFLOW, parts.BACKEND: where},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", REAPER, str(server.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        with console.status("starting MLflow"):
            _wait(server, port)
        console.print(f"MLflow shows the runs at [link]http://127.0.0.1:{port}[/link]; Ctrl-C ends it")
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)
            os.killpg(server.pid, signal.SIGKILL)
        reaper.communicate()


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        time.sleep(0.1)
    last = LOG.read_text("utf-8", errors="replace").strip().splitlines()[-3:]
    raise TemperError(f"MLflow did not start: {' '.join(last)} (log: {LOG})")
