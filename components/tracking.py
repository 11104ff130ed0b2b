"""Turns what stages recorded into MLflow runs; with `components.versions`, all that imports mlflow.

Stages only append lines to a file (`components.record`); `drain` makes runs of them (`components.runs`). What
writes waits for the file lock beside the store, so any number of processes may call it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from components import backlog, host, record, registry, rest
from components.disk import disk_fault
from components.errors import TemperError
from components.runs import Drain, Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("temper")
T = TypeVar("T")

SETTINGS = host.QUIET | {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # with MLflow's own 120 and 7 tries a dead server costs minutes a call
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # which may ask for hours
}
PAUSES_S = (1.0, 3.0)  # before what a server did not answer is done again
TRANSIENT = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}


@contextlib.contextmanager
def lock(name: str = "store") -> Iterator[None]:
    """Hold <name>.lock beside the store, shared by all worktrees that track to this root."""
    registry.beside().mkdir(parents=True, exist_ok=True)
    with (registry.beside() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """What MLflow, its server or its database raise, as an error that says where and what to do.

    rest.Unanswered if the same call may go well later.
    """
    import requests
    import sqlalchemy.exc
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from mlflow.exceptions import MlflowException

    file = registry.database()
    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.DatabaseError, OSError) as error:
        if told := disk_fault(error, file or registry.mlruns()):
            raise told from error
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            raise
        text = " ".join(str(error).partition("Response body:")[0].split())[:300]
        if file is None and getattr(error, "error_code", "INTERNAL_ERROR") in TRANSIENT:
            raise rest.Unanswered(f"tracking server {registry.address()}: {text}; {SPOOLED}") from error
        remedy = "see `temper doctor`"
        if "locked" in text:
            remedy = "is another program holding it? try again"
        elif "malformed" in text or "not a database" in text:
            remedy = "restore it from a copy, or move it away to start anew"
        raise TemperError(f"tracking store {registry.address()}: {text}; {remedy}") from error
    except (json.JSONDecodeError, ParseError) as error:
        words = f"tracking server {registry.address()}: its answer is not MLflow's; {SPOOLED}"
        raise rest.Unanswered(words) from error


SPOOLED = "what was recorded stays in .temper/runs and is tracked once it answers"


def patiently(work: Callable[[], T]) -> T:
    """Do `work`, which does nothing twice, again while a server does not answer; raises what the last try raised."""
    for pause in PAUSES_S:
        try:
            return work()
        except rest.Unanswered as error:
            log.info("tracking: %s; trying again", error)
            time.sleep(pause)
    return work()


def client() -> MlflowClient:
    """A client of the store, which is created if it is the embedded one and not there yet."""
    where = registry.address()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # MLflow would send again what may have been carried out, and make a run or a version twice: we look first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    if (file := registry.database()) is None:
        rest.probe(where)  # MLflow's own retries would take half a minute to say the same
    else:
        # Else MLflow makes a folder mlruns wherever it is called.
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = (registry.mlruns() / "artifacts").as_uri()
        _create(file)
        registry.check_schema(file)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs the traceback of what it raises
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with plainly():
        mlflow.set_tracking_uri(where)
        mlflow.set_registry_uri(where)
        return mlflow.MlflowClient(where, where)


def _create(file: Path) -> None:
    """Make the database aside and rename it: two that migrate one file break it, and so does a kill."""
    if file.exists():
        return
    with lock("create"):
        if file.exists():
            return
        log.info("tracking: creating %s", file)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        for stale in file.parent.glob(f".{file.name}.*"):
            stale.unlink()
        from mlflow import MlflowClient

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        with plainly():
            MlflowClient(f"sqlite:///{aside}", f"sqlite:///{aside}").search_experiments(max_results=1)
            connection = sqlite3.connect(aside)
            # Write-ahead logging: readers do not wait for the writer. It stays in the file.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        aside.rename(file)


class Experiment:
    """A `runs.Tracker`: the experiment that is called as the registered model."""

    def __init__(self, tracker: MlflowClient, name: str) -> None:
        self.client = tracker
        if experiment := tracker.get_experiment_by_name(name):
            self.id = _sure(experiment.experiment_id)
        else:
            own = registry.database() is not None
            location = (registry.mlruns() / "artifacts" / name).as_uri() if own else None
            self.id = _sure(tracker.create_experiment(name, artifact_location=location))

    def find(self, tag: str, value: str) -> str | None:
        found = self.client.search_runs([self.id], f"tags.`{tag}` = '{value}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def dead(self, kind: str) -> list[str]:
        """The ids of runs of this kind that claim to be at work, and whose process is gone from this host."""
        where = f"attributes.status = 'RUNNING' AND tags.kind = '{kind}'"
        found = self.client.search_runs([self.id], where, max_results=100)
        return [str(run.info.run_id) for run in found if record.is_gone(run.data.tags)]

    def create(self, name: str, tags: Mapping[str, str], started: float | None) -> str:
        began = int(started * 1000) if started else None
        return _sure(self.client.create_run(self.id, began, dict(tags), name).info.run_id)

    def metrics(self, run_id: str, points: list[Point]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(points), 1000):
            self.client.log_batch(run_id, metrics=[Metric(*point) for point in points[start : start + 1000]])

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in values.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.client.set_tag(run_id, name, value)

    def artifact(self, run_id: str, path: Path) -> None:
        self.client.log_artifact(run_id, str(path))

    def end(self, run_id: str, status: str, ended: float | None) -> None:
        self.client.set_terminated(run_id, status, int(ended * 1000) if ended else None)


def _sure(identity: object) -> str:
    """MLflow takes an answer without a body for one that leaves all fields empty."""
    if not identity:
        raise rest.Unanswered(f"tracking server {registry.address()}: its answer is empty; {SPOOLED}")
    return str(identity)


# --- records to runs -------------------------------------------------------------------------------


def drain(root: Path = record.ROOT) -> int:
    """Track every whole line not tracked yet and close what is over. Returns the number of lines."""
    if not backlog.pending(root, registry.address()):
        return 0
    tracker = client()
    with lock(), plainly():
        # Asked again: another process may have done it while this one waited.
        folders = backlog.pending(root, registry.address())
        return sum(_drain(tracker, folder).run() for folder in folders)


def _drain(tracker: MlflowClient, folder: Path) -> Drain:
    started = record.Provenance.read(folder) or record.Provenance()
    return Drain(Experiment(tracker, started.name), folder)


def close(run: str, status: str, root: Path = record.ROOT) -> None:
    """End a pipeline run as FINISHED, FAILED or KILLED, after tracking what its stages recorded."""
    folder = root / run
    if not any(folder.glob("*.jsonl")):
        return

    def end() -> None:
        tracker = client()
        with lock(), plainly():
            _drain(tracker, folder).run(status)

    patiently(end)


def begin(run: str, root: Path = record.ROOT) -> None:
    """Name this process as the driver of a pipeline run, so that its end closes the run in any case."""
    backlog.begin(root / run)


def follow(stop: threading.Event, seconds: float = 2.0, root: Path = record.ROOT) -> None:
    """Drain until `stop` is set, and once more: curves show while training runs. Errors are said once each."""
    said = ""
    while True:
        last = stop.wait(seconds)
        try:
            if last or not host.machine_is_taken():  # the benchmark shall not hear us
                drain(root)
        except (TemperError, OSError) as error:
            if str(error) != said:
                log.warning("tracking: %s", error)
                said = str(error)
        if last:
            return


def tracked(run: str, root: Path = record.ROOT) -> tuple[str, str] | None:
    """(experiment, run) by which the tracking server knows a pipeline run of this folder; None if it does not."""
    known = backlog.read_state(root / run, registry.address()).run_id
    if known is None:
        return None
    with plainly():
        return str(client().get_run(known).info.experiment_id), known


def main(arguments: list[str]) -> int:
    """`python -m components.tracking PID START`: follow one pipeline run until that process is gone."""
    pid, start = int(arguments[0]), int(arguments[1])
    folder = record.ROOT / f"dvc-{pid}-{start}"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with (record.ROOT.parent / "follow.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        stop = threading.Event()

        def watch() -> None:
            while record.process_start(pid) == start:
                time.sleep(0.2)
            # The stages see that dvc is gone, and end; only then is the run over.
            patience = time.monotonic() + 10
            while not backlog.is_over(folder) and time.monotonic() < patience:
                time.sleep(0.2)
            stop.set()

        threading.Thread(target=watch, daemon=True).start()
        follow(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
