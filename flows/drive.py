"""One pipeline run from start to end: observe, plan, the flow, the order of dvc.lock, what to tell the tracker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from components import record, scratch
from components.disk import disk_faults
from components.errors import TemperError
from components.files import write_atomic
from flows import debris, dvc, leftovers, server, snapshot
from flows.outcome import Outcome, failed_cells
from flows.runner import Runner, StageFailed, State

FIRST, LAST = "observe", "promote"  # the two that always run
DURATIONS = Path(".temper/durations.json")


class Watch(Protocol):
    """Who wants to know how the run goes: the display, a test."""

    def planned(self, run: str, order: list[str], stale: dict[str, list[str]]) -> None: ...

    def stage(self, name: str, state: State, seconds: float, message: str) -> None: ...

    def note(self, text: str) -> None: ...


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; `signal` is the number. Not an Exception, so that nothing on the way takes it for one."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(signal.Signals(number).name)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Stopped inside this block; a second one ends the process at once.

    Stages and servers are tied to it, and what it leaves open is closed by the next run.
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            os._exit(128 + number)
        stopped = True
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def slots(threads: int) -> int:
    """Stages at once: two even where one fills the cores, since each spends seconds importing on one of them."""
    return max(2, trainings(threads))


def trainings(threads: int) -> int:
    """Stages at once that keep all their threads busy."""
    return max(1, len(os.sched_getaffinity(0)) // threads)


def drive(
    watch: Watch,
    threads: int,
    stage_timeout_s: float,
    promote: bool = True,
    limits: Mapping[str, Any] | None = None,
) -> Outcome:
    """Run what is stale, with `promote` or without; how stages ended is in the Outcome.

    `limits` is that section of params.yaml as plain data: what a stage may take.

    Raises TemperError when the run cannot start or be tracked, Stopped when told to stop.
    """
    with disk_faults(Path.cwd()), dvc.driver_lock(), stoppable():
        run = f"run-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}"
        outcome, started = Outcome(run), time.monotonic()

        def note(name: str, state: State, seconds: float, message: str) -> None:
            if state in ("ran", "cached", "unchanged"):
                outcome.done[name] = (state, seconds)
            if name == LAST and message:
                outcome.promotion = message
            watch.stage(name, state, seconds, message)

        preset = snapshot.standing(Path.cwd())
        if not preset:  # `temper.workspace.enter` has done it for a preset
            os.environ |= keep(watch.note)
        before = {LAST: lambda: keep(watch.note)}
        runner = Runner(run, slots(threads), trainings(threads), note, stage_timeout_s, before, limits)
        tracker = _Tracker(run)
        status = "KILLED"
        try:
            _stages(outcome, runner, watch, promote)
            outcome.failed_cells = failed_cells()
            status = "FAILED" if outcome.exit_code else "FINISHED"
        finally:
            runner.cancel()
            scratch.clear()  # what stages left that were ended
            dvc.free_paths()
            outcome.untracked = tracker.close(status)
            keep(watch.note)
            _keep_durations(outcome)
            outcome.seconds = time.monotonic() - started
        return outcome


def keep(note: Callable[[str], None]) -> dict[str, str]:
    """Commit what runs here as it is now; returns what names that commit to the stages, empty if there is none.

    A preset's worktree is the run's own, so that it cannot be kept is an error; of the user's checkout it is a note.
    """
    here = Path.cwd()
    if preset := snapshot.standing(here):
        return {"TEMPER_COMMIT": snapshot.keep(here, preset)}
    try:
        return {"TEMPER_COMMIT": snapshot.keep_checkout(here) or ""}
    except TemperError as error:
        note(f"no commit of what runs is kept, and `temper reproduce` will miss it: {error}")
        return {"TEMPER_COMMIT": ""}


def _stages(outcome: Outcome, runner: Runner, watch: Watch, promote: bool) -> None:
    """observe, plan, and then what the plan says."""
    server.configure()
    with _imported_meanwhile():
        if not _alone(runner, FIRST, dvc.command(FIRST)):
            outcome.failed = dict(runner.failed)
            return
    plan = dvc.patiently(dvc.plan)
    if FIRST in plan.changes:
        dvc.patiently(lambda: dvc.commit(FIRST))
    if gone := leftovers.clear(plan.parents, plan.outs):  # before work: stages below depend on whole folders
        watch.note(f"cleared what {', '.join(gone)} left behind")
        plan = dvc.patiently(dvc.plan)
    outcome.order = list(plan.parents)
    work = {name: parents for name, parents in plan.stale(apart=FIRST).items() if name != LAST}
    debris.clear(Path.cwd(), set(work))
    # promote is quick, and knows better than dvc.lock whether the registry is where the decision wants it
    last = {LAST: [p for p in plan.parents[LAST] if p in work]} if promote and LAST in plan.parents else {}
    outcome.stale = work | last
    watch.planned(outcome.run, outcome.order, outcome.stale)
    if not work:
        for name in outcome.stale:  # a flow run of nothing would cost more than finding out that there is nothing
            _alone(runner, name, None if name in plan.changes else dvc.command(name))
        outcome.failed = dict(runner.failed)
        dvc.canonical_lock(outcome.order)  # a run that was killed may have left it as its stages ended
        return
    if not server.standing():
        watch.note("starting Prefect" + ("" if server.HOME.joinpath("prefect.db").exists() else " (first time here)"))
    with server.running(runner.logs / "prefect.log"):
        from flows import reconcile, retrain

        reconcile.flow_runs()
        retrain.run_stages(runner, outcome.run, outcome.stale)
    outcome.failed = dict(runner.failed)
    if any(how != "unchanged" for how, _ in outcome.done.values()):
        dvc.canonical_lock(outcome.order)
        dvc.keep_lock()


def _alone(runner: Runner, name: str, plainly: str | None) -> bool:
    """Run a stage outside the flow, as patient with a busy DVC as the flow is; whether it went well."""
    try:
        dvc.patiently(lambda: runner.stage(name, plainly))
    except StageFailed:
        return False
    return True


@contextlib.contextmanager
def _imported_meanwhile() -> Iterator[None]:
    """Import what planning needs while observe runs in its own process."""

    def load() -> None:
        import dvc.repo.reproduce  # noqa: F401

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    yield
    thread.join()


def durations() -> dict[str, float]:
    """Seconds each stage took when it last ran; empty if that is not known."""
    try:
        return {str(name): float(value) for name, value in json.loads(DURATIONS.read_text("utf-8")).items()}
    except (OSError, ValueError):
        return {}


def _keep_durations(outcome: Outcome) -> None:
    ran = {name: round(seconds, 2) for name, (how, seconds) in outcome.done.items() if how == "ran"}
    if ran:
        with contextlib.suppress(OSError):  # of use to the display only
            write_atomic(DURATIONS, json.dumps(durations() | ran, indent=2, sort_keys=True) + "\n")


class _Tracker:
    """Streams the stages' records into MLflow from a thread, from the moment that there is one."""

    def __init__(self, run: str) -> None:
        self._run, self._records = run, record.ROOT / run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _something(self) -> bool:
        return any(self._records.glob("*.jsonl"))

    def _follow(self) -> None:
        while not self._stop.wait(0.5):
            if self._something():
                from components import tracking

                with contextlib.suppress(OSError):  # a full disk may have room again before the end
                    tracking.begin(self._run)
                tracking.follow(self._stop, seconds=2)
                return

    def close(self, status: str) -> str:
        """End the tracked run as FINISHED, FAILED or KILLED; says why if that cannot be done."""
        self._stop.set()
        self._thread.join()
        if self._something():  # importing mlflow takes seconds: only if there is something to track
            from components import tracking

            try:
                tracking.close(self._run, status)
            except (TemperError, OSError) as error:
                return str(error)
        return ""
