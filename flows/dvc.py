"""The one wrapper round DVC: what is stale, running a stage, the order of dvc.lock, one driver a workspace.

Planning is in process (one load of the graph); a stage runs as `dvc --wait-for-lock repro -s NAME`, in a
session of its own that dies with the driver, so that kill -9 of anything leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from components.errors import TemperError

T = TypeVar("T")
What = Literal["ran", "cached", "unchanged"]
State = Literal["running", "busy", "ran", "cached", "unchanged", "failed"]

# DVC's own advice is of no use to who drives it from here.
CHATTER = re.compile(
    r"^\s*$|dvc push|(Updating|Generating) lock file|To track the changes|git add|"
    r"To enable auto staging|dvc config core.autostage"
    r"|: done in [\d.]+ s$|Data and pipelines are up to date|^> python|^Running stage|^ERROR: failed to reproduce"
)
BUSY = re.compile(r"is busy, it is being blocked|Unable to acquire lock|failed to lock", re.IGNORECASE)


BUSY_TRIES, BUSY_WAIT_S = 6, 2.0


class Busy(Exception):
    """Another process holds DVC's path locks for a moment; worth a retry."""


class StageFailed(TemperError):
    """A stage ended with an error; `exit_code` is the stage's own."""

    def __init__(self, stage: str, exit_code: int, reason: str) -> None:
        self.stage, self.exit_code, self.reason = stage, exit_code, reason
        super().__init__(f"{stage}: {reason}")


class Cancelled(Exception):
    """The run is being stopped; the stage was ended or never started."""


@dataclass(frozen=True)
class Plan:
    """The whole DAG in the order a plain `dvc repro` takes, and what has changed."""

    parents: dict[str, list[str]]
    changes: dict[str, list[str]]  # per changed stage: why, in words
    always: frozenset[str]  # run every time
    outs: frozenset[str]  # paths that stages own, from the workspace's root

    def stale(self, apart: str = "") -> dict[str, list[str]]:
        """Changed stages and all below them, in order, each with its stale parents; `apart` counts as unchanged."""
        names: list[str] = []
        for name, parents in self.parents.items():
            if name != apart and (name in self.changes or any(parent in names for parent in parents)):
                names.append(name)
        return {name: [parent for parent in self.parents[name] if parent in names] for name in names}


def _words(status: list[Any]) -> list[str]:
    """DVC's status of one stage in words; empty if nothing changed."""
    verbs = {"modified": "changed", "new": "is new", "deleted": "is missing", "not in cache": "is not in the cache"}
    words: list[str] = []
    for entry in status:
        if entry in ("changed command", "changed checksum"):
            words.append("its command changed")
        if not isinstance(entry, dict):
            continue
        for path, change in entry.get("changed deps", {}).items():
            if isinstance(change, dict):  # a params file
                words += [f"{path}: {key} {verbs.get(how, how)}" for key, how in change.items()]
            else:
                words.append(f"{path} {verbs.get(change, change)}")
        for path, change in entry.get("changed outs", {}).items():
            words.append(f"its output {path} {verbs.get(change, change)}")
    return words


def plan() -> Plan:
    """One locked look at the workspace. Raises Busy, and TemperError when dvc.yaml or dvc.lock cannot be read."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    try:
        with Repo(_wait_for_lock=True) as repo, lock_repo(repo):
            graph = get_active_graph(repo.index.graph)
            order = plan_repro(graph, collect_stages(repo, ["dvc.yaml"]))
            parents = {stage.addressing: sorted(up.addressing for up in graph.successors(stage)) for stage in order}
            always = frozenset(stage.addressing for stage in order if stage.always_changed)
            outs = frozenset(
                Path(out.fs_path).relative_to(repo.root_dir).as_posix()
                for stage in order
                for out in stage.outs
                if out.is_in_repo
            )
            words = {stage.addressing: _words(stage.status().get(stage.addressing, [])) for stage in order}
    except DvcException as error:
        raise _told(error, "cannot plan") from error
    return Plan(parents, {name: why for name, why in words.items() if why}, always, outs)


def command(name: str) -> str | None:
    """What a stage of dvc.yaml without templates runs; None if it cannot be read: DVC then says why."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        said = YAML(typ="safe").load(Path("dvc.yaml").read_text("utf-8"))["stages"][name]["cmd"]
    except (OSError, YAMLError, KeyError, TypeError):
        return None
    return said if isinstance(said, str) and "${" not in said else None


def commit(name: str) -> None:
    """Enter into dvc.lock and the cache what a stage made by its plain command. Raises Busy, TemperError."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(_wait_for_lock=True) as repo:
            repo.commit(name, force=True)
    except DvcException as error:
        raise _told(error, f"cannot keep what {name} made") from error


def _told(error: Exception, what: str) -> Busy | TemperError:
    """DVC's error as ours."""
    if not BUSY.search(str(error)):
        return TemperError(f"DVC {what}: {error}; `dvc status` shows the whole message")
    path, _, holders = str(error).partition(" is busy")
    pid = re.search(r"PID (\d+)", holders)
    return Busy(f"{path} is held by process {pid[1] if pid else 'unknown'}")


def patiently(work: Callable[[], T]) -> T:
    """Try again while DVC is busy, as the flow's tasks do. Raises TemperError when that lasts."""
    for left in reversed(range(BUSY_TRIES)):
        try:
            return work()
        except Busy as error:
            if not left:
                raise TemperError(f"{error}; another dvc is at work here: wait for it, then try again") from None
            time.sleep(BUSY_WAIT_S)
    raise AssertionError("unreachable")


def canonical_lock(order: list[str]) -> None:
    """Put dvc.lock's entries into `order`, so that it does not depend on which stage finished first."""
    from dvc.repo import Repo
    from dvc.utils.serialize import load_yaml, modify_yaml

    if not Path("dvc.lock").exists():
        return

    def sort(stages: Any) -> list[str]:
        return [name for name in order if name in stages] + [name for name in stages if name not in order]

    with Repo(_wait_for_lock=True) as repo, repo.lock:
        stages = load_yaml("dvc.lock")["stages"]
        if sort(stages) == list(stages):
            return
        with modify_yaml("dvc.lock", fs=repo.fs) as content:
            items = {name: content["stages"][name] for name in sort(content["stages"])}
            content["stages"].clear()
            content["stages"].update(items)


@contextlib.contextmanager
def driver_lock() -> Iterator[None]:
    """Only one driver may run stages in a workspace; raises TemperError that names the one that does."""
    path = Path(".dvc/tmp/driver.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise TemperError(
                f"another temper run is at work in {Path.cwd()} (pid {holder}); "
                f"wait for it, or stop it with `kill {holder}`"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


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
    ) -> None:
        """`before`: per stage what is called just before it starts, and gives environment variables to it."""
        self.run, self.watch, self.timeout_s, self.before = run, watch, timeout_s, before or {}
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
                what, last = self._run(name, plainly)
            except StageFailed as error:
                self.failed[name] = error
                self.watch(name, "failed", time.monotonic() - started, str(error))
                raise
            except Busy:
                self.watch(name, "busy", time.monotonic() - started, "DVC is busy")
                raise
            self.watch(name, what, time.monotonic() - started, last)
            return what

    def _run(self, name: str, plainly: str | None) -> tuple[What, str]:
        self.logs.mkdir(parents=True, exist_ok=True)
        log_path = self.logs / f"{name}.log"
        tail: deque[str] = deque(maxlen=200)
        process = self._start(name, plainly)
        late = threading.Event()

        def end() -> None:
            late.set()
            self._end(process)

        overdue = threading.Timer(self.timeout_s, end)
        overdue.daemon = True
        overdue.start()
        what: What = "ran" if plainly else "unchanged"
        try:
            with log_path.open("a", encoding="utf-8") as log:
                for line in process.stdout or ():
                    if "Running stage" in line:
                        what = "ran"
                    elif "is cached - skipping run" in line:
                        what = "cached"
                    tail.append(line.rstrip("\n"))
                    log.write(line)
                    log.flush()
            code = process.wait()
        finally:
            overdue.cancel()
            with self._guard:
                self._live.discard(process)
        text = "\n".join(tail)
        said = [line for line in tail if not CHATTER.search(line)]
        if code == 0:
            return what, said[-1] if said else ""
        if self._cancelled.is_set():
            raise Cancelled(name)
        if late.is_set():
            raise StageFailed(name, 1, f"took over {self.timeout_s:.0f} s; raise --stage-timeout-s (log: {log_path})")
        own = re.search(r"exited with (-?\d+)", text)
        if own is None and not plainly and BUSY.search(text):
            raise Busy(f"{name}: {said[-1] if said else 'DVC is busy'}")
        own_code = int(own.group(1)) if own else code if plainly else 1
        reason = "\n".join(said[-8:]) or f"exit code {own_code} without a message"
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
        """TERM to the whole session, so that a stage can close its record; KILL for what is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
            os.killpg(process.pid, signal.SIGKILL)

    def cancel(self) -> None:
        """End every running stage and start no other."""
        with self._guard:
            self._cancelled.set()
            live = list(self._live)
        enders = [threading.Thread(target=self._end, args=[process]) for process in live]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
