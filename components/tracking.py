"""The one file that imports mlflow: turns what stages recorded into runs, and builds into registered versions.

One MLflow run per pipeline run, below it one per stage that ran and one per cell. Stages only append lines
to a file (`components.record`); `drain` reads on from where it stopped. Everything here waits for the file
lock beside the store, so any number of processes may call it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import backlog, host, record, registry
from components.backlog import FileState
from components.errors import TemperError
from components.hashing import sha256_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("temper")

SETTINGS = host.QUIET | {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # with MLflow's own 7, 2 and 120 a dead server costs minutes a call
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
LONGEST_VALUE = 6000  # of an MLflow param; tags take 8000


@contextlib.contextmanager
def lock(name: str = "store") -> Iterator[None]:
    """Hold mlruns/<name>.lock, shared by all worktrees that track to this root."""
    registry.mlruns().mkdir(parents=True, exist_ok=True)
    with (registry.mlruns() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """What MLflow or its database raise, as an error that says where and what to do."""
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.DatabaseError) as error:
        text = " ".join(str(error).split())[:300]
        remedy = "is another program holding it? try again" if "locked" in text else "see `temper doctor`"
        raise TemperError(f"tracking store {registry.address()}: {text}; {remedy}") from error


def client() -> MlflowClient:
    """A client of the store, which is created if it is the embedded one and not there yet."""
    where = registry.address()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if (file := registry.database()) is None:
        _probe(where)
    else:
        # Else MLflow makes a folder mlruns wherever it is called.
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = (registry.mlruns() / "artifacts").as_uri()
        _create(file)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with plainly():
        mlflow.set_tracking_uri(where)
        mlflow.set_registry_uri(where)
        return mlflow.MlflowClient(where, where)


def _probe(where: str) -> None:
    """One quick question first: MLflow's own retries would take half a minute to say the same."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"{where}/health", timeout=registry.SERVER_TIMEOUT_S).close()  # noqa: S310 - http(s) only
    except urllib.error.HTTPError:
        pass  # it answers; whether it lets us in shows at the first call
    except (OSError, ValueError) as error:
        raise registry.unreachable(where, error) from None


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


def _experiment(tracker: MlflowClient, workspace: Path) -> str:
    """The id of the experiment that is called as the registered model in params.yaml."""
    params = workspace / "params.yaml"
    found = re.search(r"(?m)^name:\s*([a-z][a-z0-9_]*)", params.read_text("utf-8")) if params.exists() else None
    name = found[1] if found else "temper"
    if experiment := tracker.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    own = registry.database() is not None
    location = (registry.mlruns() / "artifacts" / name).as_uri() if own else None
    return str(tracker.create_experiment(name, artifact_location=location))


def git_state(workspace: Path) -> dict[str, str]:
    """Commit and whether the tree differs from it; empty outside a git checkout."""

    def git(*words: str) -> str | None:
        answer = subprocess.run(["git", *words], cwd=workspace, capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except OSError:
        return {}
    return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()} if commit else {}


def provenance(workspace: Path) -> dict[str, str]:
    """What a run or a version must name to be made again."""
    tags = {"host": socket.gethostname(), **git_state(workspace)}
    for tag, name in (("params.sha256", "params.yaml"), ("dvc_lock.sha256", "dvc.lock")):
        if (workspace / name).exists():
            tags[tag] = sha256_file(workspace / name)
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = experiment
    return tags


# --- records to runs -------------------------------------------------------------------------------


def drain(root: Path = record.ROOT) -> int:
    """Track every whole line not tracked yet and close what is over. Returns the number of lines."""
    if not backlog.pending(root, registry.address()):
        return 0
    tracker = client()
    with lock(), plainly():
        # Asked again: another process may have done it while this one waited.
        return sum(_Drain(tracker, folder).run() for folder in backlog.pending(root, registry.address()))


def close(run: str, status: str, root: Path = record.ROOT) -> None:
    """End a pipeline run as FINISHED, FAILED or KILLED, after tracking what its stages recorded."""
    folder = root / run
    if not any(folder.glob("*.jsonl")):
        return
    tracker = client()
    with lock(), plainly():
        _Drain(tracker, folder).run(status)


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
        except TemperError as error:
            if str(error) != said:
                log.warning("tracking: %s", error)
                said = str(error)
        if last:
            return


class _Drain:
    """One pipeline run's folder on its way into MLflow."""

    def __init__(self, tracker: MlflowClient, folder: Path) -> None:
        self.tracker, self.folder = tracker, folder
        self.workspace = folder.absolute().parent.parent.parent
        self.state = backlog.read_state(folder, registry.address())
        self.look_up = self.state.interrupted
        self.index = _Index()

    def run(self, status: str | None = None) -> int:
        self.experiment = _experiment(self.tracker, self.workspace)
        self.state.interrupted = True
        backlog.write_state(self.folder, self.state)
        self.parent = self.state.run_id or self._parent()
        self.state.run_id = self.parent
        lines = sum(self._file(path) for path in sorted(self.folder.glob("*.jsonl")))
        if status or (self.state.closed is None and backlog.is_over(self.folder)):
            self._close(status)
        self.state.interrupted = False
        backlog.write_state(self.folder, self.state)
        return lines

    def _create(self, name: str, started: float | None, tags: Mapping[str, str]) -> str:
        """A run with these tags; `temper.record` is its identity, by which one made before a kill is found."""
        if self.look_up:
            identity = tags["temper.record"]
            found = self.tracker.search_runs([self.experiment], f"tags.`temper.record` = '{identity}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
        began = int(started * 1000) if started else None
        return str(self.tracker.create_run(self.experiment, began, dict(tags), name).info.run_id)

    def _parent(self) -> str:
        tags = {"temper.record": self.folder.name, "kind": "pipeline", "pipeline_run": self.folder.name}
        firsts = [next(backlog.unread(path, 0), None) for path in self.folder.glob("*.jsonl")]
        began = min((first[1]["time"] for first in firsts if first), default=None)
        run_id = self._create(self.folder.name, began, tags | provenance(self.workspace))
        if (self.workspace / "params.yaml").exists():
            self.tracker.log_artifact(run_id, str(self.workspace / "params.yaml"))
        return run_id

    def _file(self, path: Path) -> int:
        """Track what is new in one stage's file."""
        from mlflow.entities import Metric

        known = self.state.files.get(path.name)
        first = next((line for _, line in backlog.unread(path, 0)), None)
        if first is None:
            return 0
        if known is None or json.loads(known.first) != first:
            if known and known.status is None:
                self.tracker.set_terminated(known.run_id, "KILLED")
            known = FileState(json.dumps(first), self._stage(path.name, first))
            self.state.files[path.name] = known
        metrics: list[Metric] = []
        lines, offset = 0, known.offset
        for offset, line in backlog.unread(path, known.offset):
            lines += 1
            if "step" in line:
                at = int(line["time"] * 1000)
                metrics += [Metric(_key(name), value, at, line["step"]) for name, value in _numbers(line)]
            elif "cell" in line:
                self._cell(f"{self.folder.name}/{path.name}#{offset}", line)
            elif "status" in line:
                metrics += [Metric(_key(name), value, int(line["time"] * 1000), 0) for name, value in _numbers(line)]
                known.status = line["status"]
        for start in range(0, len(metrics), 1000):
            self.tracker.log_batch(known.run_id, metrics=metrics[start : start + 1000])
        if known.status and lines:
            self._end(path, known)
        elif known.status is None and not backlog.stage_alive(first):
            known.status = "KILLED"
            self.tracker.set_terminated(known.run_id, "KILLED", int(path.stat().st_mtime * 1000))
        known.offset = offset
        backlog.write_state(self.folder, self.state)
        return lines

    def _stage(self, name: str, first: Mapping[str, Any]) -> str:
        tags = {
            "temper.record": f"{self.folder.name}/{name}/{first['pid']}-{first['start']}",
            "mlflow.parentRunId": self.parent,
            "kind": "stage",
            "stage": first["stage"],
            "host": first["host"],
            "pipeline_run": self.folder.name,
        }
        if first["item"]:
            tags["variant"] = first["item"]
        run_id = self._create(name.removesuffix(".jsonl"), first["time"], tags)
        self._params(run_id, first["params"])
        return run_id

    def _end(self, path: Path, known: FileState) -> None:
        line = [line for _, line in backlog.unread(path, 0)][-1]
        for artifact in line.get("artifacts", []):
            if (self.workspace / artifact).exists():
                self.tracker.log_artifact(known.run_id, str(self.workspace / artifact))
        self.tracker.set_terminated(known.run_id, known.status, int(line["time"] * 1000))

    def _cell(self, identity: str, line: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        tags = {name: str(value)[:LONGEST_VALUE] for name, value in line["tags"].items()}
        made_by = self.index.made_by(tags.get("digest"))
        fixed = {
            "temper.record": identity,
            "mlflow.parentRunId": self.parent,
            "kind": "cell",
            "cell": line["cell"],
            "pipeline_run": self.folder.name,
        }
        run_id = self._create(line["cell"], None, tags | fixed | ({"made_by": made_by} if made_by else {}))
        self.index.add(tags.get("digest"), run_id)
        self._params(run_id, line["params"])
        now = int(time.time() * 1000)
        self.tracker.log_batch(run_id, metrics=[Metric(_key(name), value, now, 0) for name, value in _numbers(line)])
        self.tracker.set_terminated(run_id, "FAILED" if tags.get("status") == "failed" else "FINISHED")

    def _params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_key(name), str(value)[:LONGEST_VALUE]) for name, value in values.items()]
        for start in range(0, len(params), 100):
            self.tracker.log_batch(run_id, params=params[start : start + 100])

    def _close(self, status: str | None) -> None:
        ends = [file.status or "KILLED" for file in self.state.files.values()]
        worst = next((end for end in ("FAILED", "KILLED") if end in ends), "FINISHED")
        self.state.closed = status or worst
        for name, value in provenance(self.workspace).items():
            self.tracker.set_tag(self.parent, name, value)
        self.tracker.set_terminated(self.parent, self.state.closed)


class _Index:
    """mlruns/index.json: which run first showed the build with a digest. Never inside an output: it is not content."""

    def __init__(self) -> None:
        self.path = registry.mlruns() / "index.json"
        self.all: dict[str, dict[str, str]] = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
        self.runs = self.all.setdefault(registry.address(), {})

    def made_by(self, digest: str | None) -> str | None:
        return self.runs.get(digest) if digest else None

    def add(self, digest: str | None, run_id: str) -> None:
        if not digest or digest in self.runs:
            return
        self.runs[digest] = run_id
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        aside.write_text(json.dumps(self.all, indent=1, sort_keys=True), "utf-8")
        aside.replace(self.path)


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def _numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Metrics that are numbers; what was not measured (None) has no entry, and infinity no store keeps."""
    for name, value in line.get("metrics", {}).items():
        if isinstance(value, int | float) and not math.isinf(value):
            yield name, float(value)


# --- builds to registered versions -----------------------------------------------------------------


def register(name: str, loader: Path, parts: Mapping[str, Path], spec: Mapping[str, Any], tags: dict[str, str]) -> int:
    """Store a build as a pyfunc model from code (no pickle) and register it; returns the version's number.

    `parts` are the files that ship: model, build, card, licence. The version is made with its tags in one
    step, so one with a digest is complete.
    """
    tracker = client()
    import mlflow
    import numpy as np
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    image = np.dtype("float32")
    signature = ModelSignature(
        Schema([TensorSpec(image, (-1, *spec["shape"]))]),
        Schema([TensorSpec(np.dtype("str"), (-1,))]),
        ParamSchema([ParamSpec("output", "string", "label")]),
    )
    # MLflow would refuse float64 and integer arrays before the loader sees them; the loader checks more, and converts.
    signature._is_signature_from_type_hint = True
    with lock(), plainly():
        experiment = _experiment(tracker, Path.cwd())
        fixed = {
            "kind": "promote",
            "pipeline_run": tags["pipeline_run"],
            "cell": tags["cell"],
            "digest": tags["digest"],
        }
        if parent := _run_called(tracker, experiment, tags["pipeline_run"]):
            fixed["mlflow.parentRunId"] = parent
        run = tracker.create_run(experiment, tags=fixed, run_name="promote")
        mlflow.set_experiment(experiment_id=experiment)
        with mlflow.start_run(run_id=run.info.run_id):
            logged = mlflow.pyfunc.log_model(
                name=name,
                python_model=str(loader),
                artifacts={part: str(path) for part, path in parts.items()},
                signature=signature,
                input_example=np.zeros((1, *spec["shape"]), image),
                pip_requirements=[_pinned(package) for package in ("mlflow", "numpy", "onnxruntime")],
                metadata={"digest": tags["digest"], "cell": tags["cell"], "classes": spec["classes"]},
            )
        check_files(Path(mlflow.artifacts.download_artifacts(logged.model_uri)), loader)
        try:
            tracker.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        about = parts["card"].read_text("utf-8")[:5000]
        made = tracker.create_model_version(
            name, logged.model_uri, run.info.run_id, tags, description=about, model_id=logged.model_id
        )
        return int(made.version)


def check_files(folder: Path, loader: Path) -> None:
    """Refuse a model folder with code other than `loader`'s bytes, or with anything pickled."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".py" and path.read_bytes() == loader.read_bytes():
            continue
        if path.suffix in (".py", ".pyc", ".so", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"):
            raise TemperError(f"{path.name}: must not be in a registered model; it holds data and Temper's loader only")


def move_alias(name: str, number: int, before: int | None) -> None:
    """Make a version the champion and the one before it `previous`; the caller holds the registry's lock."""
    tracker = client()
    going_back = before is not None and number < before
    with plainly():
        if before is not None and before != number:
            tracker.set_registered_model_alias(name, "previous", str(before))
        # A mark above the alias means that it was rolled back: a kill between the two must not look like that.
        if going_back:
            tracker.set_registered_model_tag(name, registry.PROMOTED, str(number))
        tracker.set_registered_model_alias(name, "champion", str(number))
        if not going_back:
            tracker.set_registered_model_tag(name, registry.PROMOTED, str(number))


def download(source: str, to: Path) -> Path:
    client()
    import mlflow

    with plainly():
        return Path(mlflow.artifacts.download_artifacts(source, dst_path=str(to)))


def _run_called(tracker: MlflowClient, experiment: str, pipeline_run: str) -> str | None:
    found = tracker.search_runs([experiment], f"tags.`temper.record` = '{pipeline_run}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _pinned(package: str) -> str:
    return f"{package}=={version(package).partition('+')[0]}"


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
