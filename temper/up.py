"""`temper up` and `temper down`: Prefect, MLflow and the runner of schedules as one supervised group."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from components import registry
from components.errors import ParamsError, TemperError
from flows import group as groups
from flows import orphans, parts
from flows.group import Group
from flows.supervise import READY_S, Supervisor

LOGS = Path(".temper/logs/up")
LOCK = Path(".temper/up.lock")
DETACHED_LOG = LOGS / "supervisor.log"
DOWN_S = 12.0  # the supervisor itself needs less than 10


def up(root: Path, prefect_port: int | None, mlflow_port: int | None, detach: bool) -> None:
    """Run the group until Ctrl-C, SIGTERM or `temper down`; with `detach`, return when it is ready.

    Raises ParamsError for ports and schedules that cannot be, TemperError if a part does not start or stay.
    """
    from flows import schedules, server

    if given := server.standing():
        raise ParamsError(
            [
                f"PREFECT_API_URL: names a Prefect server already, {given}: `python -m flows.deployments` and `prefect "
                f"worker start --pool temper` use that one; unset it to start one here"
            ]
        )
    schedules.planned(root)
    parts.check_database()
    if detach:
        _detach(root, prefect_port, mlflow_port)
        return
    with _alone(root):
        group = groups.read(root) or Group()
        if orphans.sweep(group.token):
            Console(stderr=True).print("ended what an earlier `temper up` had left behind", style="yellow")
        group.token = Group().token  # a reaper of the earlier group may still be at work
        group.prefect_port = parts.port("--prefect-port", prefect_port, group.prefect_port, parts.PREFECT_PORT, {})
        taken = {"prefect": group.prefect_port}
        group.mlflow_port = parts.port("--mlflow-port", mlflow_port, group.mlflow_port, parts.MLFLOW_PORT, taken)
        group.mlflow_elsewhere = where if (where := registry.address()).startswith("http") else ""
        group.tracks = bool(os.environ.get("MLFLOW_BACKEND_STORE_URI")) and not group.mlflow_elsewhere
        group.ready, group.since = False, time.time()
        group.own()
        groups.write(root, group)
        try:
            _run(root, group)
        finally:
            group.ready, group.pid = False, None
            groups.write(root, group)


def _run(root: Path, group: Group) -> None:
    """Start, tell, watch, stop."""
    console, stop = Console(soft_wrap=True), threading.Event()
    with _stopped_by_signals(stop):
        _make_store(group)
        supervisor = Supervisor(group.token, LOGS, lambda text: console.print(Text(text, "yellow")), stop)
        try:
            with console.status("starting Prefect and MLflow"):
                ours = [] if group.mlflow_elsewhere else [parts.mlflow(group)]
                supervisor.start(parts.prefect(group), *ours)
            with console.status("starting the runner"):
                supervisor.start(parts.runner(group, root))
            if not stop.is_set():
                group.ready = True
                groups.write(root, group)
                tell(console, root, group)
                console.print("Ctrl-C or `temper down` ends all of it.")
            supervisor.watch()
        finally:
            console.print("stopping")
            supervisor.stop()


def tell(console: Console, root: Path, group: Group) -> None:
    """Where to look, and what will run when."""
    from flows import schedules

    user, _, _ = group.password.partition(":")
    console.print(Text.assemble(("Prefect  ", "bold"), (group.prefect, "cyan"), "  schedules, runs, their logs"))
    console.print(Text.assemble(("MLflow   ", "bold"), (group.mlflow, "cyan"), "  tracked runs, registered models"))
    planned = [one for one in schedules.planned(root) if one.schedule]
    told = ", ".join(f"{one.name} {one.schedule.cron} ({one.schedule.timezone})" for one in planned if one.schedule)
    told = told or "none: `schedule` in params.yaml or a preset says when; until then runs are started by hand"
    console.print(Text.assemble(("Schedule ", "bold"), told, "; a change is taken up in ten seconds"))
    console.print(f"Prefect asks for a password: that of {user} is in {groups.FILE}, as `password`, whole.")


def _make_store(group: Group) -> None:
    """The embedded store is made once and with care; MLflow's server would make it its own way."""
    store = registry.database() if not group.tracks else None
    if store is not None and not store.exists():
        from components import tracking

        tracking.client()
    if store is not None:
        registry.check_schema(store)


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else it was started by nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One group a checkout."""
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            group = groups.read(root)
            where = f": Prefect {group.prefect}, MLflow {group.mlflow} (pid {group.pid})" if group else ""
            raise TemperError(f"`temper up` runs here already{where}; `temper down` ends it") from None
        yield


def _detach(root: Path, prefect_port: int | None, mlflow_port: int | None) -> None:
    with _alone(root):
        pass
    words = [f"--{name}-port={port}" for name, port in (("prefect", prefect_port), ("mlflow", mlflow_port)) if port]
    DETACHED_LOG.parent.mkdir(parents=True, exist_ok=True)
    with DETACHED_LOG.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "temper", "up", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    console = Console(soft_wrap=True)
    until = time.monotonic() + 2 * READY_S
    with console.status("starting Prefect, MLflow and the runner"):
        while process.poll() is None and time.monotonic() < until:
            group = groups.up(root)
            if group is not None and group.pid == process.pid:
                tell(console, root, group)
                console.print(f"`temper status` says how it is, `temper down` ends it (log: {DETACHED_LOG})")
                return
            time.sleep(0.1)
    said = DETACHED_LOG.read_text("utf-8", errors="replace").strip()
    raise TemperError(f"`temper up` did not start:\n{said}")


def down(root: Path) -> None:
    """End the group, however it was started. Raises TemperError if it does not end."""
    console = Console(soft_wrap=True)
    group = groups.read(root)
    if group is None:
        console.print("`temper up` has not run here")
        return
    was = group.alive
    if was and group.pid:
        os.kill(group.pid, signal.SIGTERM)
        until = time.monotonic() + DOWN_S
        while group.alive and time.monotonic() < until:
            time.sleep(0.05)
        if group.alive:
            os.kill(group.pid, signal.SIGKILL)
    left = orphans.sweep(group.token)
    if not was and not left:
        console.print("`temper up` does not run here")
        return
    console.print("Prefect, MLflow and the runner are down" + (f"; {left} left processes were killed" if left else ""))
