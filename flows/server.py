"""A Prefect server of our own for the length of one run, when PREFECT_API_URL names no standing one.

Prefect's ephemeral mode would start the same uvicorn, but prints some 150 lines of CancelledError as it stops and
leaves it behind after kill -9. This one is bound to loopback, asks for a password that only this process
knows, writes to a log file and dies with the driver.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.errors import TemperError
from components.redaction import has_credentials
from flows.runner import tied

HOME = Path(".temper/prefect")
SETTINGS = {
    "DO_NOT_TRACK": "true",  # the literal word: MLflow does not take 1
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what failed is told by us, once
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default unpickles what lies in its folder
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_CLI_PROMPT": "false",
}


def settings() -> dict[str, str]:
    """Prefect's settings where the environment has no others: nothing leaves the workspace, nothing is pickled."""
    HOME.mkdir(parents=True, exist_ok=True)
    HOME.chmod(0o700)
    return {
        name: os.environ.get(name, value) for name, value in {"PREFECT_HOME": str(HOME.resolve()), **SETTINGS}.items()
    }


def configure() -> None:
    """Set them, before Prefect is imported."""
    os.environ |= settings()


def command(port: int) -> list[str]:
    """The server's program, on loopback."""
    words = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
    return [sys.executable, *words, "--port", str(port), "--log-level", "error", "--lifespan", "on"]


def standing() -> str | None:
    """Address of the server that the user runs, if there is one. Raises TemperError for one with a password in it."""
    where = os.environ.get("PREFECT_API_URL") or None
    if where and has_credentials(where):
        raise TemperError("PREFECT_API_URL: must not hold credentials; give them in PREFECT_API_AUTH_STRING")
    return where


def answers(where: str) -> None:
    """Ask the user's server a question: Prefect itself would try again for minutes. Raises TemperError."""
    from flows import agenda

    key = os.environ.get("PREFECT_API_KEY")
    if key is None:  # of Prefect Cloud, which has other questions
        agenda.ask(where.rstrip("/"), os.environ.get("PREFECT_API_AUTH_STRING", ""), "/admin/version")


@contextlib.contextmanager
def running(log_path: Path, patience_s: float = 120) -> Iterator[None]:
    """A Prefect server is answering inside this block, and PREFECT_API_URL names it.

    The server's start (5 s; 15 s in a new workspace) and the import of Prefect go on together.
    """
    if where := standing():
        answers(where)
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, password = f"http://127.0.0.1:{port}/api", f"temper:{secrets.token_urlsafe(24)}"
    mine = {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": password}
    server_env = {**os.environ, "PREFECT_SERVER_API_AUTH_STRING": password, "PREFECT_UI_ENABLED": "false"}
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _starting(Path(os.environ["PREFECT_HOME"])):
            with log_path.open("a", encoding="utf-8") as log:
                process = subprocess.Popen(
                    tied(command(port)),
                    env=server_env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            stack.callback(_stop, process, mine)
            os.environ.update(mine)
            import prefect  # noqa: F401  # takes a second: while the server starts

            _wait(process, address, log_path, patience_s)
        yield


@contextlib.contextmanager
def _starting(home: Path) -> Iterator[None]:
    """One server of a home at a time: two that make or upgrade its database at once break each other."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "temper-start.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stop(process: subprocess.Popen[bytes], mine: Iterable[str]) -> None:
    for name in mine:
        os.environ.pop(name, None)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.kill()
    process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log_path: Path, patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if process.poll() is not None:
            last = log_path.read_text("utf-8", errors="replace").strip().splitlines()[-3:]
            raise TemperError(
                f"the Prefect server ended with code {process.returncode}: {' '.join(last)} (log: {log_path}); "
                f"`temper doctor` checks the installed versions, `dvc repro` runs without Prefect"
            )
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(f"{address}/health", timeout=5):  # noqa: S310  # our own loopback address
                return
        time.sleep(0.05)
    raise TemperError(f"the Prefect server did not answer within {patience_s:.0f} s (log: {log_path})")
