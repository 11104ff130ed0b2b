"""Storage that fails otherwise: read-only, corrupt, cut off, locked, of another version; and a clock that jumps."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import intact, journal, objects, record, registry, remote, tracking
from components.errors import TemperError
from components.record import Recorder
from flows import dvc
from flows.runner import Runner
from tests.components.conftest import empty_store, tracked, workspace  # noqa: F401 - fixtures
from tests.hardening.disk import disk, read_only
from tests.workspace import Workspace, with_one_stage

DAG = "stages:\n  make:\n    cmd: sh make.sh\n    deps: [make.sh]\n    outs: [out]\n"
MAKE = "echo ran >> ran.log\nmkdir -p out\necho 1 > out/1\necho 2 > out/2\n"


@pytest.mark.hardening("C19", "the workspace is on a read-only disk")
def test_a_read_only_workspace_is_told_in_one_line(tmp_path: Path, sound: Callable[[Path], None]) -> None:
    with disk(tmp_path / "disk", 64) as mounted:
        space = Workspace(mounted / "workspace")
        read_only(mounted)
        for command in ("run", "promote"):
            said = space("temper", command, code=1)
            assert "Traceback" not in said and len(said.strip().splitlines()) == 2, said
            assert "error:" in said
        said = space("temper", "run", code=1)
        assert "cannot be written or read here (read-only file system); mount it writable" in said
        read_only(mounted, False)
        sound(space.folder)
    space.folder.mkdir(parents=True)
    said = space("temper", "status", code=2)  # what was mounted there is gone
    assert "not inside a Temper workspace" in said and "Traceback" not in said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one stage that has run, and a remote that has its output."""
    folder = with_one_stage(tmp_path_factory.mktemp("made"), DAG, MAKE)
    (folder / "params.yaml").write_text("policy: {}\n")
    _dvc(folder, "repro")
    return folder


def _dvc(folder: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def spoilt(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it whose cache has a flipped byte, in a file as read-only as DVC leaves it, and no output."""
    folder = tmp_path / "workspace"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv(remote.VARIABLE, raising=False)
    spoil(folder)
    return folder


def spoil(folder: Path) -> Path:
    store = folder / ".dvc/cache/files/md5"
    oid = objects.locked((folder / "dvc.lock").read_text())["make"]["out"]
    found = objects.at(store, objects.listing(store, oid)["1"])
    found.chmod(0o644)
    found.write_text("9\n")
    found.chmod(0o444)
    shutil.rmtree(folder / "out")
    return found


def _runner() -> Runner:
    return Runner("test", 1, 1, lambda *_: None, 120)


@pytest.mark.hardening("C16", "a byte of a DVC cache object is flipped, then DVC brings it")
def test_a_corrupt_object_is_found_before_use(spoilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _dvc(spoilt, "checkout")
    assert (spoilt / "out/1").read_text() == "9\n", "DVC itself finds it now"
    intact.check([Path("out")])  # by hand: nobody says what it must be
    monkeypatch.setattr(record, "dvc_process", lambda: (1, 1))
    with pytest.raises(intact.Changed, match=r"out: DVC's cache was corrupt and had brought wrong bytes; they are in"):
        intact.check([Path("out/1")])
    assert not (spoilt / "out").exists()
    assert len(list((spoilt / ".dvc/cache/corrupt").iterdir())) == 2, "the object and the output"
    _dvc(spoilt, "repro")
    assert (spoilt / "out/1").read_text() == "1\n"
    (spoilt / "out/1").write_text("mine\n")
    with pytest.raises(intact.Changed, match=r"out: was changed after it was made; `dvc repro` makes it again"):
        intact.check([Path("out")])
    assert (spoilt / "out/1").read_text() == "mine\n", "what a user changed stays"


@pytest.mark.hardening("C16", "a run brings a stage from a corrupt cache: made again, or fetched from the remote")
def test_a_run_mends_a_corrupt_object(spoilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _runner().stage("make") == "ran"
    assert (spoilt / "out/1").read_text() == "1\n" and (spoilt / "ran.log").read_text() == "ran\nran\n"
    monkeypatch.setenv(remote.VARIABLE, str(tmp_path / "remote"))
    remote.before_promotion({"remote": None, "endpoint": None, "required": True, "timeout_s": 120.0})
    spoil(spoilt)
    assert _runner().stage("make") == "cached"
    assert (spoilt / "out/1").read_text() == "1\n" and (spoilt / "ran.log").read_text() == "ran\nran\n"


@pytest.mark.hardening("C15", "dvc.lock is cut off while DVC writes it")
def test_a_dvc_lock_that_was_cut_off_is_put_back(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    whole = Path("dvc.lock").read_text()
    assert not dvc.plan().changes
    for cut in (0, 5, len(whole) - 3):
        Path("dvc.lock").write_text(whole[:cut])
        assert not dvc.plan().changes and Path("dvc.lock").read_text() == whole
    merging = f"<<<<<<< ours\n{whole[:40]}"
    Path("dvc.lock").write_text(merging)
    with pytest.raises(TemperError, match=r"dvc\.lock"):
        dvc.plan()
    assert Path("dvc.lock").read_text() == merging


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.hardening("C20", "the tracking database has an older schema, is empty, corrupt or locked")
@pytest.mark.parametrize("wrong", ["older", "old columns", "empty", "corrupt"])
def test_a_database_that_cannot_be_used_is_refused_and_not_touched(
    wrong: str,
    tracked: Path,  # noqa: F811
) -> None:
    file = tracked / "mlruns/mlflow.db"
    with sqlite3.connect(file) as store:
        store.execute("PRAGMA journal_mode=DELETE")
        if wrong == "older":
            store.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
            store.execute("DROP TABLE trace_info")  # a newer table that an older one lacks: MLflow then migrates
        elif wrong == "old columns":
            store.execute("ALTER TABLE registered_model_aliases RENAME COLUMN alias TO name_of_alias")
    store.close()
    if wrong == "empty":
        file.write_bytes(b"")
    elif wrong == "corrupt":
        file.write_bytes(file.read_bytes()[:5000] + b"\xff" * 3000)
    before = _sha256(file)
    said = {
        "older": f"cp {file} {file}.before && mlflow db upgrade sqlite:///{file}",
        "old columns": "mlflow db upgrade",
        "empty": "is no tracking database; restore it, or move it away",
        "corrupt": "restore it",
    }[wrong]
    ask: Callable[[], Any] = (lambda: registry.champion("digits")) if wrong == "old columns" else tracking.client
    with pytest.raises(TemperError) as refused:
        ask()
    assert said in str(refused.value) and str(file) in str(refused.value)
    assert _sha256(file) == before, "it was changed"


@pytest.mark.hardening("C20", "which schema is ours is kept as a constant, so that asking costs nothing")
def test_the_schema_is_that_of_the_installed_mlflow() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert _get_latest_schema_revision() == registry.SCHEMA


@pytest.mark.drill
@pytest.mark.hardening("C20", "another program holds the tracking database")
def test_a_locked_database_is_told_and_nothing_is_lost(
    tracked: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPER_RUN", "run-locked")
    Recorder("make", "base", {}).end("FINISHED", {}, [])
    holder = sqlite3.connect(tracked / "mlruns/mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TemperError, match=r"database is locked.*is another program holding it"):
        tracking.drain()
    holder.execute("ROLLBACK")
    holder.close()
    assert tracking.drain() == 2
    with sqlite3.connect(tracked / "mlruns/mlflow.db") as store:
        assert store.execute("SELECT COUNT(*) FROM runs").fetchone() == (2,)


@pytest.mark.hardening("C21", "the clock is set back by an hour while a stage runs, and between two promotions")
def test_a_clock_that_is_set_back_makes_no_negative_durations(
    tracked: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPER_RUN", "run-clock")
    now, real = time.time(), time.strftime
    recorder = Recorder("make", "base", {})
    recorder.log({"loss": 1.0}, 1)
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    recorder.log({"loss": 0.5}, 2)
    recorder.cell("base/fp32", {}, {"accuracy": 0.9}, {"digest": "abc"})
    recorder.end("FINISHED", {}, [])
    Recorder("build", "base", {})  # it will be taken for killed
    tracking.close("run-clock", "FINISHED")
    with sqlite3.connect(tracked / "mlruns/mlflow.db") as store:
        assert store.execute("SELECT COUNT(*) FROM runs WHERE end_time < start_time").fetchone() == (0,)
        steps = store.execute("SELECT step FROM metrics WHERE key = 'loss' ORDER BY timestamp").fetchall()
    assert steps == [(1,), (2,)]

    journal.append(journal.read(), "digits", "promote", None, 1, "", {})
    monkeypatch.setattr(time, "strftime", lambda form, at: real(form, time.gmtime(now - 3600)))
    journal.append(journal.read(), "digits", "promote", 1, 2, "", {})
    known = journal.read()
    assert not known.faults and [line.to for line in known.lines] == [1, 2]
    first, second = known.lines
    assert second.time >= first.time and journal.at(known, "digits", second.time) == second
