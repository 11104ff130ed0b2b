"""What `temper doctor --invariants` says of an empty workspace, of a sound one, and of every kind of harm."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components import journal, record, registry, scratch, tracking
from flows import debris, dvc
from temper.__main__ import app
from temper.invariants import check
from tests.components.packages import UNSIGNED, folder_of

DEAD = 2**22 + 1  # more than the kernel gives out


def wrong() -> dict[str, str]:
    """{invariant: what is wrong} here."""
    return {found.what: found.found for found in check(Path.cwd()) if found.level == "fail"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("MLFLOW_TRACKING_URI", "TEMPER_ROOT", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(debris, "PATIENCE_S", 0.0)
    monkeypatch.chdir(tmp_path)
    yield tmp_path.resolve()


def test_where_nothing_is_yet_all_of_it_holds(folder: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--invariants"])
    assert done.exit_code == 0 and done.output.count("ok") == 5, done.output


def test_a_violation_is_told_with_place_and_remedy_by_exit_code_1(folder: Path) -> None:
    (folder / ".temper").mkdir()
    (folder / f".temper/.durations.json.{DEAD}").touch()
    done = CliRunner().invoke(app, ["doctor", "--invariants"])
    assert done.exit_code == 1 and "1 violations" in done.output
    assert "durations.json" in done.output and "`temper run` removes it" in done.output


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_an_alias_whose_files_are_not_as_registered_is_seen(restored: Path, harm: str) -> None:
    assert "aliases" not in wrong()
    path = folder_of(UNSIGNED) / "MLmodel"
    path.write_text(path.read_text() + "\n") if harm == "changed" else path.unlink()
    assert "champion of digits is version 3" in wrong()["aliases"]


def test_a_champion_that_the_journal_does_not_know_is_seen(restored: Path) -> None:
    line = {"number": 1, "time": "2026-11-26T15:04:05Z", "model": "digits", "action": "promote", "from": None, "to": 2}
    journal.path().write_text(json.dumps(line | {"line_before_sha256": None}) + "\n")
    try:
        registry_mark = journal.read().lines[0].mark
        tracking.client().set_registered_model_tag("digits", registry.JOURNALLED, registry_mark)
        assert "the champion is version 3, by the journal version 2" in wrong()["journal"]
        journal.path().write_text("{}\n")
        assert "cannot be read" in wrong()["journal"] or "missing" in wrong()["journal"]
    finally:
        journal.path().unlink()
        tracking.client().delete_registered_model_tag("digits", registry.JOURNALLED)


@pytest.fixture
def made(folder: Path) -> Path:
    """A workspace in which one stage made one file, cached by DVC."""
    content = b"made"
    oid = hashlib.md5(content, usedforsecurity=False).hexdigest()
    cache = folder / f".dvc/cache/files/md5/{oid[:2]}/{oid[2:]}"
    for path in (cache, folder / "work/out"):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "dvc.lock").write_text(
        f"schema: '2.0'\nstages:\n  make:\n    cmd: make\n    outs:\n    - {{path: work/out, hash: md5, md5: {oid}}}\n"
    )
    return cache


def test_an_output_that_is_not_as_recorded_is_seen_and_a_missing_one_is_no_fault(folder: Path, made: Path) -> None:
    assert wrong() == {}
    (folder / "work/out").write_bytes(b"other")
    assert f"{folder}/work/out: is " in wrong()["outputs"]
    (folder / "work/out").unlink()
    assert wrong() == {}


def test_a_corrupt_object_of_the_cache_is_seen_and_a_missing_one_is_no_fault(folder: Path, made: Path) -> None:
    made.write_bytes(b"mode")
    assert f"{made}: is corrupt" in wrong()["outputs"]
    made.unlink()
    assert wrong() == {}


def test_a_lock_file_that_cannot_be_read_is_seen(folder: Path, made: Path) -> None:
    (folder / "dvc.lock").write_text("stages: [\n")
    assert "cannot be read" in wrong()["outputs"]


@pytest.mark.parametrize(
    ("tags", "alive"),
    [
        ({"kind": "pipeline", "pipeline_run": f"run-20261126-150405-{DEAD}"}, False),
        ({"kind": "pipeline", "pipeline_run": f"run-20261126-150405-{os.getpid()}"}, True),
        ({"kind": "stage", "pipeline_run": "x", "temper.record": f"x/make.jsonl/{DEAD}-1"}, False),
        ({"kind": "stage", "pipeline_run": "x", "temper.record": f"x/make.jsonl/{DEAD}-1", "host": "other"}, True),
        ({"kind": "promote", **record.process()}, True),
        ({"kind": "promote", **record.process(), "temper.start": "1"}, False),
        ({"kind": "promote", **record.process(), "temper.host": "other"}, True),
        ({"kind": "cell"}, False),
    ],
)
def test_a_run_that_claims_to_be_at_work_is_seen(restored: Path, tags: dict[str, str], alive: bool) -> None:
    client = tracking.client()
    run = client.create_run("0", tags=tags).info.run_id
    try:
        assert (run not in wrong().get("runs", "")) == alive
    finally:
        client.set_terminated(run)


def test_temporary_files_of_the_dead_are_seen_and_removed_and_those_of_the_living_stay(folder: Path) -> None:
    (folder / "work/metrics").mkdir(parents=True)
    left = [folder / f"work/metrics/.make.json.{DEAD}", folder / f"work/metrics/.db.{DEAD}-wal"]
    mine, users = folder / f"work/metrics/.make.json.{os.getpid()}", folder / f".env.{DEAD}"
    for path in (*left, mine, users):
        path.touch()
    assert debris.files(folder) == sorted(left)
    debris.clear(folder, set())
    assert mine.exists() and users.exists() and not any(path.exists() for path in left)


def test_what_a_stopped_stage_left_stays_only_while_a_run_will_go_on_with_it(folder: Path) -> None:
    for name in ("make@base", "make@pruned"):
        (folder / "work/aside" / name).mkdir(parents=True)
    assert wrong() == {}
    assert debris.clear(folder, {"make@base"}) == ["make@pruned"]
    assert (folder / "work/aside/make@base").exists()


def test_a_private_folder_goes_with_its_process_or_is_removed_by_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "YOUNG_S", 0.0)
    script = "import time; from components import scratch\nwith scratch.private(): print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
    )
    assert process.stdout and process.stdout.readline()
    assert scratch.abandoned() == []  # it lives
    process.kill()
    process.wait()
    (left,) = scratch.abandoned()
    assert left.stat().st_mode & 0o777 == 0o700 and ".temper/tmp" in wrong()["left-overs"]
    with scratch.private() as mine:
        assert not left.exists() and mine.exists()
    assert not mine.exists()


def test_processes_whose_driver_is_gone_are_seen(folder: Path) -> None:
    asleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan = subprocess.Popen(asleep, cwd=folder, env=os.environ | {"TEMPER_RUN": f"run-20261126-150405-{DEAD}"})
    stage = subprocess.Popen(asleep, cwd=folder, env=os.environ | {"TEMPER_RUN": f"run-20261126-150405-{os.getpid()}"})
    try:
        until = time.monotonic() + 10
        while not debris.orphans(folder) and time.monotonic() < until:
            time.sleep(0.05)
        assert [pid for pid, _ in debris.orphans(folder)] == [orphan.pid]
        assert f"process {orphan.pid} is left" in wrong()["left-overs"]
    finally:
        orphan.kill()
        stage.kill()
        orphan.wait()
        stage.wait()


def test_a_lock_that_outlives_who_took_it_is_seen(folder: Path) -> None:
    path = folder / ".dvc/tmp/driver.lock"
    path.parent.mkdir(parents=True)
    path.write_text(f"{DEAD}\n")
    assert wrong() == {}
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "driver.lock: is held" in wrong()["left-overs"]
    (folder / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {"work/out": {"pid": DEAD, "cmd": "dvc"}}}))
    assert f"rwlock: process {DEAD}" in wrong()["left-overs"]
    dvc.free_paths()
    assert wrong() == {}


def test_only_what_the_dead_hold_is_freed_and_a_list_that_was_cut_off_goes(folder: Path) -> None:
    path = folder / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    dead, alive = {"pid": DEAD, "cmd": "dvc"}, {"pid": os.getpid(), "cmd": "dvc"}
    path.write_text(json.dumps({"write": {"a": dead, "b": alive}, "read": {"c": [dead, alive], "d": [dead]}}))
    dvc.free_paths()
    assert json.loads(path.read_text()) == {"write": {"b": alive}, "read": {"c": [alive]}}
    path.write_text('{"write": {"a"')
    dvc.free_paths()
    assert not path.exists()
