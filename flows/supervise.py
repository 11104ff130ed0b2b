"""Processes that belong together: started, watched, started again a few times, stopped; none survives another's kill.

Each part has a session of its own, dies with the supervisor (`runner.tied`) and carries the group's token, as
does what it starts. What ties cannot reach (children of a killed part) is found by the token: by the supervisor
when a part dies, by a reaper when the supervisor dies, by the next `temper up` when both do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import TemperError
from flows import orphans
from flows.group import PART, TOKEN
from flows.runner import tied

RESTARTS, RESTARTS_S = 3, 300.0  # a part that dies more often than this takes the group down
READY_S = 600.0  # a first start makes databases, maybe on a busy machine; who dies meanwhile is noticed at once
STOP_S = 4.0  # for one step of stopping; kill -9 for what is left
LAST_LINES = 8


@dataclass(frozen=True)
class Part:
    """A process of the group; `ready` says whether it does its work yet, given its log of this start."""

    name: str
    command: list[str]
    env: Mapping[str, str]
    ready: Callable[[Path], bool]


@dataclass
class _Life:
    part: Part
    process: subprocess.Popen[bytes]
    deaths: deque[float] = field(default_factory=deque)


class Supervisor:
    """Call everything from one thread that lives as long as the group: the parts are tied to it."""

    def __init__(self, token: str, logs: Path, say: Callable[[str], None], stop: threading.Event) -> None:
        """`say` is told of restarts; `stop` ends waiting and watching."""
        self.token, self.logs, self.say, self.stopping = token, logs, say, stop
        self._lives: dict[str, _Life] = {}
        logs.mkdir(parents=True, exist_ok=True)
        self._reaper = self._reap()

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def pids(self) -> dict[str, int]:
        return {name: life.process.pid for name, life in self._lives.items()}

    def start(self, *parts: Part) -> None:
        """Start parts and wait until all are ready. Raises TemperError with the last lines of one that is not."""
        for part in parts:
            self.log(part.name).unlink(missing_ok=True)
            self._lives[part.name] = _Life(part, self._spawn(part))
        until = time.monotonic() + READY_S
        waiting = list(parts)
        while waiting and not self.stopping.is_set():
            for part in waiting:
                code = self._lives[part.name].process.poll()
                if code is not None:
                    raise TemperError(f"{part.name} ended with code {code}: {self._last(part.name)}")
                if time.monotonic() > until:
                    raise TemperError(f"{part.name} was not ready after {READY_S:.0f} s: {self._last(part.name)}")
            waiting = [part for part in waiting if not part.ready(self.log(part.name))]
            self.stopping.wait(0.1)

    def watch(self) -> None:
        """Until told to stop. Raises TemperError when a part cannot be kept alive."""
        while not self.stopping.wait(0.2):
            for name, life in self._lives.items():
                if (code := life.process.poll()) is not None:
                    self._again(name, life, code)
            if self._reaper.poll() is not None:
                self._reaper = self._reap()

    def _again(self, name: str, life: _Life, code: int) -> None:
        orphans.sweep(self.token, name)  # what it had started
        now = time.monotonic()
        life.deaths.append(now)
        while now - life.deaths[0] > RESTARTS_S:
            life.deaths.popleft()
        if len(life.deaths) > RESTARTS:
            raise TemperError(
                f"{name} ended {len(life.deaths)} times in {RESTARTS_S:.0f} s, last with code {code}; "
                f"{self._last(name)}"
            )
        self.say(f"{name} ended with code {code}; started again (log: {self.log(name)})")
        life.process = self._spawn(life.part)

    def _last(self, name: str) -> str:
        with contextlib.suppress(OSError):
            lines = self.log(name).read_text("utf-8", errors="replace").strip().splitlines()
            return "\n".join([f"its last lines ({self.log(name)}):", *lines[-LAST_LINES:]])
        return f"it wrote no log ({self.log(name)})"

    def _spawn(self, part: Part) -> subprocess.Popen[bytes]:
        with self.log(part.name).open("ab") as log:
            return subprocess.Popen(
                tied(part.command),
                env={**part.env, TOKEN: self.token, PART: part.name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _reap(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.orphans", self.token],
            env={**os.environ, TOKEN: self.token, PART: orphans.REAPER},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End the parts, the last started first: TERM, and kill -9 for what is left after some seconds."""
        for name, life in reversed(self._lives.items()):
            _signal(life.process, signal.SIGTERM)
            if name == next(reversed(self._lives)):  # the runner still has to tell the server of its runs
                _wait(life.process)
        until = time.monotonic() + STOP_S
        for life in self._lives.values():
            _wait(life.process, max(0.1, until - time.monotonic()))
        for life in self._lives.values():
            _signal(life.process, signal.SIGKILL)
            life.process.wait()
        orphans.sweep(self.token)
        if self._reaper.stdin:
            self._reaper.stdin.close()
        _wait(self._reaper)
        self._reaper.kill()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _wait(process: subprocess.Popen[bytes], seconds: float = STOP_S) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
