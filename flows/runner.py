"""Running stages: as `dvc --wait-for-lock repro -s NAME`, or by the plain command where DVC need not know.

Each in a session of its own that dies with the driver, so that kill -9 of anything leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from components import record
from components.disk import disk_fault
from components.errors import TemperError
from components.redaction import without_secrets
from flows import mend
from flows.dvc import BUSY, Busy
from flows.limits import Limits

log = logging.getLogger("temper")

What = Literal["ran", "cached", "unchanged"]
State = Literal["running", "busy", "ran", "cached", "unchanged", "failed"]

# DVC's own advice is of no use to who drives it from here.
CHATTER = re.compile(
    r"^\s*$|dvc push|(Updating|Generating) lock file|To track the changes|git add|"
    r"To enable auto staging|dvc config core.autostage"
    r"|: done in [\d.]+ s$|Data and pipelines are up to date|^> python|^Running stage|"
    r"^ERROR: failed to reproduce '[^']*': failed to run"
)


class StageFailed(TemperError):
    """A stage ended with an error; `exit_code` is the stage's own."""

    def __init__(self, stage: str, exit_code: int, reason: str) -> None:
        self.stage, self.exit_code, self.reason = stage, exit_code, reason
        super().__init__(f"{stage}: {reason}")


class Cancelled(Exception):
    """The run is being stopped; the stage was ended or never started."""


# Run by a bare Python that then becomes the command: a fork hook (preexec_fn) would run in a copy of a process
# with threads in it. PR_SET_PDEATHSIG is 1; the parent may have died before it was set.
TIE = """import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])"""


def tied(command: list[str]) -> list[str]:
    """`command`, so that the kernel kills it when the thread that started it ends, be it by kill -9 (Linux only)."""
    return [sys.executable, "-I", "-S", "-c", TIE, str(os.getpid()), *command]


class Runner:
    """Runs stages of one pipeline run: at most `slots` at once, each logged, all of them killable.

    Of `make`, which trains, at most `trainings`: a barrier of threads of which one has no core costs a time slice, and
    a training has hundreds a step.
    """

    def __init__(
        self,
        run: str,
        slots: int,
        trainings: int,
        watch: Callable[[str, State, float, str], None],
        timeout_s: float,
        before: Mapping[str, Callable[[], Mapping[str, str]]] | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        """`limits`: that section of params.yaml, as plain data.

        `before`: per stage what is called just before it starts, and gives environment variables to it.
        """
        self.run, self.watch, self.before = run, watch, before or {}
        self.limits = Limits.of(timeout_s, limits)
        self.logs = Path(".temper/logs") / run
        self.failed: dict[str, StageFailed] = {}
        self._slots, self._trainings = threading.BoundedSemaphore(slots), threading.BoundedSemaphore(trainings)
        self._live: set[subprocess.Popen[str]] = set()
        self._guard = threading.Lock()
        self._cancelled = threading.Event()

    def stage(self, name: str, plainly: str | None = None) -> What:
        """Run one stage and say what became of it. Raises Busy, StageFailed, Cancelled.

        `plainly`: its command, for a stage that runs in any case and sooner than DVC loads; DVC learns nothing of it.
        """
        training = name.partition("@")[0] == "make"
        with self._trainings if training else contextlib.nullcontext(), self._slots:
            started = time.monotonic()
            self.watch(name, "running", 0.0, "")
            try:
                what, last = self._whole(name, plainly)
            except StageFailed as error:
                self.failed[name] = error
                self.watch(name, "failed", time.monotonic() - started, error.reason)
                raise
            except Busy:
                self.watch(name, "busy", time.monotonic() - started, "DVC is busy")
                raise
            self.watch(name, what, time.monotonic() - started, last)
            return what

    def _whole(self, name: str, plainly: str | None) -> tuple[What, str]:
        """Run it, and once more if DVC brought it from a corrupt cache: what is corrupt is set aside meanwhile."""
        what, last = self._run(name, plainly)
        if what == "cached" and (wrong := mend.spoilt(name)):
            log.warning("%s: %s", name, wrong)
            what, last = self._run(name, plainly)
            if what == "cached" and (wrong := mend.spoilt(name)):
                raise StageFailed(name, 1, wrong)
        return what, last

    def _run(self, name: str, plainly: str | None) -> tuple[What, str]:
        self.logs.mkdir(parents=True, exist_ok=True)
        log_path = self.logs / f"{name}.log"
        tail: deque[str] = deque(maxlen=200)
        process = self._start(name, plainly)
        over, ended = [], threading.Event()

        def end(what: str) -> None:
            over.append(what)
            self._end(process)

        threading.Thread(target=self.limits.watch, args=(name, process.pid, ended, end), daemon=True).start()
        what: What = "ran" if plainly else "unchanged"
        try:
            with log_path.open("ab", buffering=0) as log:
                for line in map(without_secrets, process.stdout or ()):
                    if "Running stage" in line:
                        what = "ran"
                    elif "is cached - skipping run" in line:
                        what = "cached"
                    tail.append(line.rstrip("\n"))
                    with contextlib.suppress(OSError):  # a full disk: what was said last is in `tail`
                        log.write(line.encode())
            code = process.wait()
        finally:
            ended.set()
            with self._guard:
                self._live.discard(process)
        text = "\n".join(tail)
        said = [line for line in tail if not CHATTER.search(line)]
        if code == 0:
            return what, said[-1] if said else ""
        if self._cancelled.is_set():
            raise Cancelled(name)
        if over:
            last = "\n".join(["its last lines:", *said[-8:]]) if said else "it said nothing"
            raise StageFailed(
                name,
                1,
                f"{over[0]} if it needs more (log: {log_path}); {last}",
            )
        own = re.search(r"exited with (-?\d+)", text)
        if own is None and not plainly and BUSY.search(text):
            raise Busy(f"{name}: {said[-1] if said else 'DVC is busy'}")
        own_code = int(own.group(1)) if own else code if plainly else 1
        said = [re.sub(rf"^({re.escape(name)}: )+", "", line) for line in said]  # who tells of it names the stage
        reason = "\n".join(said[-8:]) or f"exit code {own_code} without a message"
        if own_code == -signal.SIGKILL:
            reason += (
                "\nit was killed (SIGKILL), by the kernel if memory ran out; `limits` in params.yaml bound a stage"
            )
        if own is None and (told := disk_fault(OSError(reason), Path.cwd())):  # DVC names neither path nor remedy
            reason += f"\n{told}"
        raise StageFailed(name, own_code, f"{reason}\n(log: {log_path})")

    def _start(self, name: str, plainly: str | None) -> subprocess.Popen[str]:
        # `python` in dvc.yaml must be this Python, with the environment activated or not.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        ours = {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", "TEMPER_RUN": self.run}
        if name in self.before:
            try:
                ours |= self.before[name]()
            except TemperError as error:
                raise StageFailed(name, 1, str(error)) from error
        with self._guard:
            if self._cancelled.is_set():
                raise Cancelled(name)
            through_dvc = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", name]
            process = subprocess.Popen(
                tied(["/bin/sh", "-c", plainly] if plainly else through_dvc),
                env={**os.environ, **ours},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._live.add(process)
            return process

    @staticmethod
    def _end(process: subprocess.Popen[str], patience_s: float = 5.0) -> None:
        """TERM to the whole session, so that a stage can close its record and go; KILL for what is left."""
        import psutil

        below: list[int] = []
        with contextlib.suppress(psutil.Error):  # DVC goes at once: it is the stage, below it, that is waited for
            below = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            until = time.monotonic() + patience_s
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
            while any(record.process_start(pid) for pid in below) and time.monotonic() < until:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)

    def cancel(self) -> None:
        """End every running stage and start no other; who is told again meanwhile to stop does so at once."""
        with self._guard:
            self._cancelled.set()
            live = list(self._live)
        enders = [threading.Thread(target=self._end, args=[process]) for process in live]
        with _impatient():
            for ender in enders:
                ender.start()
            for ender in enders:
                ender.join()


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Ctrl-C and SIGTERM end this process: stages and servers are tied to it. Prefect's own handler would wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
