"""A clean clone of a version's commit, and its data by hash."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components import objects, registry
from components.errors import TemperError
from components.hashing import sha256_file
from flows import clone, snapshot

DAG = """stages:
  ingest:
    cmd: mkdir -p work/data/raw && echo rows > work/data/raw/data.parquet
    outs: [work/data/raw]
"""


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "a repo"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / ".gitignore").write_text("/work/\n/.temper/\n/data.csv\n")
    (folder / "dvc.yaml").write_text(DAG)
    (folder / "params.yaml").write_text("name: toy\nsource: {kind: csv, path: data.csv}\n")
    git(folder, "init", "-q", "-b", "main")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=folder, check=True)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.fixture
def repo(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a repo"
    shutil.copytree(made, folder)
    objects.cache.cache_clear()
    for name in ("TEMPER_ROOT", "TEMPER_REMOTE", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


def version(repo: Path, **tags: str) -> registry.Version:
    kept = {"git.commit": snapshot.keep_checkout(repo) or "", "git.dirty": "false"}
    lock = {"dvc_lock.sha256": sha256_file(repo / "dvc.lock")}
    given = {name.replace("__", "."): value for name, value in tags.items()}
    return registry.Version(1, "nowhere", {key: value for key, value in (kept | lock | given).items() if value})


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"git__commit": ""}, "was made outside of git"),
        ({"git__dirty": "true"}, "from a tree that differed from its commit"),
        ({"git__dirty": ""}, "from a tree that differed from its commit"),
        ({"git__commit": "0" * 40}, "its commit 000000000000 is not in this repository; .*git fetch"),
    ],
)
def test_versions_without_a_commit_of_all_that_ran_are_refused(repo: Path, tags: dict[str, str], words: str) -> None:
    with pytest.raises(TemperError, match=rf"version 1 of toy: .*{words}"):
        clone.commit_of(version(repo, **tags), "toy", repo)


def test_a_commit_that_was_collected_is_said_to_be_gone(repo: Path) -> None:
    (repo / "params.yaml").write_text("name: other\n")
    kept = version(repo)
    git(repo, "update-ref", "-d", "refs/temper/no-preset")
    git(repo, "reflog", "expire", "--expire=now", "--all")
    git(repo, "gc", "-q", "--prune=now")
    with pytest.raises(TemperError, match="is not in this repository"):
        clone.commit_of(kept, "toy", repo)


def test_a_clone_is_clean_has_the_kept_files_and_is_gone_on_with(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / "params.yaml").write_text("name: toy\nsource: {kind: csv, path: data.csv}\nseed: 1\n")  # not committed
    (repo / "data.csv").write_text("a,b\n")  # ignored
    hook = repo / ".git/hooks/post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch '{repo}/hooked'\n")
    hook.chmod(0o755)
    kept = version(repo)
    with clone.made(kept, "toy", repo) as one:
        assert "seed: 1" in (one.folder / "params.yaml").read_text() and not (one.folder / "data.csv").exists()
        assert not (one.folder / "work").exists() and not (one.folder / ".dvc/cache").exists()
        monkeypatch.chdir(one.folder)  # where the stages run
        clone.link_inputs(one, {"source": {"path": "data.csv"}, "init": {"model": {"checkpoint": "nowhere"}}})
        assert (one.folder / "data.csv").read_text() == "a,b\n"
        monkeypatch.chdir(repo)
        one.mark("observe")
        with pytest.raises(TemperError, match="another `temper reproduce`"), clone.made(kept, "toy", repo):
            pass
    with clone.made(kept, "toy", repo) as again:  # as after a kill
        assert again.done() == ["observe"] and (again.folder / "data.csv").exists()
        again.over()
    with clone.made(kept, "toy", repo) as anew:
        assert anew.done() == [] and not (anew.folder / "data.csv").exists()
    assert not (repo / "hooked").exists() and (repo / "data.csv").read_text() == "a,b\n"
    with clone.made(kept, "toy", repo) as left:
        left.mark("observe")
    (repo / "params.yaml").write_text("name: toy\nseed: 2\n")
    with clone.made(version(repo), "toy", repo) as other:  # the version of that number names another commit now
        assert other.done() == []


def test_a_workspace_below_the_top_of_its_repository(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = repo / "below"
    below.mkdir()
    (below / "params.yaml").write_text("name: toy\n")
    monkeypatch.chdir(below)
    kept = registry.Version(1, "", {"git.commit": snapshot.keep_checkout(below) or "", "git.dirty": "false"})
    with clone.made(kept, "toy", below) as one:
        assert one.folder.name == "below" and (one.folder / "params.yaml").exists()


def raw_object(repo: Path) -> Path:
    oid = objects.locked((repo / "dvc.lock").read_text())["ingest"][clone.RAW]
    store = objects.cache(repo)
    name = objects.listing(store, oid)["data.parquet"]
    path = store / name[:2] / name[2:]
    path.chmod(0o644)
    return path


def test_data_come_by_their_hash_from_the_cache_else_from_the_remote(repo: Path, tmp_path: Path) -> None:
    """A corrupt object is not taken for the data, though DVC would check it out."""
    with clone.made(version(repo), "toy", repo) as one:
        assert clone.bring_data(one, repo, {}) and one.notes == []
        assert (one.folder / clone.RAW / "data.parquet").read_text() == "rows\n"

    backup = {"policy": {"push": {"remote": str(tmp_path / "backup"), "required": True, "timeout_s": 100.0}}}
    subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "-q", "b", str(tmp_path / "backup")], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "push", "-q", "-r", "b"], check=True)
    raw_object(repo).write_text("rotten\n")
    with clone.made(version(repo), "toy", repo) as two:
        shutil.rmtree(two.folder / "work", ignore_errors=True)
        assert clone.bring_data(two, repo, backup)
        assert (two.folder / clone.RAW / "data.parquet").read_text() == "rows\n"
        assert "is corrupt" in two.notes[0] and two.notes[1] == f"the data were pulled from {tmp_path}/backup"

    shutil.rmtree(tmp_path / "backup")
    with clone.made(version(repo, dvc_lock__sha256="0" * 64), "toy", repo) as three:
        assert not clone.bring_data(three, repo, backup)
        assert three.notes == ["no dvc.lock of this version is kept, so its data are made anew from their source"]
    with clone.made(version(repo), "toy", repo) as four:
        shutil.rmtree(four.top / ".dvc/cache", ignore_errors=True)
        shutil.rmtree(four.folder / "work", ignore_errors=True)
        assert not clone.bring_data(four, repo, backup)
        assert len(four.notes) == 2 and not (four.folder / clone.RAW).exists()


def test_the_lock_is_freed(repo: Path) -> None:
    kept = version(repo)
    with pytest.raises(KeyError), clone.made(kept, "toy", repo):
        raise KeyError
    with (repo / ".temper/reproduce/toy-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
