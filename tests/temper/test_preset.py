"""`temper preset` and `--preset` as a user types them, short of a whole run (that is tests/test_presets.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.dvc import driver_lock
from tests.temper.test_cli import ROOT, temper


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with one preset, committed; nothing has run."""
    root = (tmp_path / "a workspace").resolve()
    (root / "presets").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name in ("components", "flows"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "presets/other.yaml").write_text("# digits, less strict\nname: other_digits\npolicy: {margin: 0.07}\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "first")
    return root


def test_help_teaches_the_rule(folder: Path) -> None:
    said = " ".join(temper("preset", "--help", cwd=folder).stdout.replace("│", " ").split())
    assert "replace those of params.yaml as a whole if given; every other section merges key by key" in said
    assert "--preset" in temper("run", "--help", cwd=folder).stdout


def test_list_show_and_a_preset_that_has_not_run(folder: Path) -> None:
    said = temper("preset", "list", cwd=folder).stdout
    assert "digits, less strict" in said and said.count("none yet") == 2
    assert "margin: 0.07" in temper("preset", "show", "other", cwd=folder).stdout
    assert "has no worktree" in temper("preset", "remove", "other", cwd=folder).stdout
    for command in ("matrix", "promote"):
        done = temper(command, "--preset", "other", cwd=folder)
        assert done.returncode == 1 and "`temper run --preset other` runs it" in done.stderr
    for words in (["preset", "show", "nosuch"], ["run", "--preset", "nosuch"]):
        done = temper(*words, cwd=folder)
        assert done.returncode == 2 and "no such preset; there are: other" in done.stderr
    assert temper("preset", "remove", "../../..", cwd=folder).returncode == 2
    assert not (folder / ".temper").exists()


def test_the_worktree_has_the_code_and_params_of_now(folder: Path) -> None:
    done = temper("status", "--preset", "other", cwd=folder)
    assert done.returncode == 0 and "make@base" in done.stdout, done.stderr
    standing = folder / ".temper/presets/other"
    assert f"dir = {folder}/.dvc/cache" in (standing / ".dvc/config.local").read_text()
    times = {name: (standing / name).stat().st_mtime_ns for name in ("params.yaml", "dvc.yaml")}
    tip = git(folder, "rev-parse", "refs/temper/other")

    done = temper("status", "--preset", "other", cwd=folder)
    assert {name: (standing / name).stat().st_mtime_ns for name in times} == times
    assert git(folder, "rev-parse", "refs/temper/other") == tip

    (folder / "components/new.py").write_text("# new\n")
    (folder / "components/answers.py").unlink()
    (folder / "presets/other.yaml").write_text("name: other_digits\npolicy: {margin: 0.08}\n")
    (standing / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    temper("status", "--preset", "other", cwd=folder)
    assert (standing / "components/new.py").exists() and not (standing / "components/answers.py").exists()
    assert "margin: 0.08" in (standing / "params.yaml").read_text()
    assert (standing / "dvc.yaml").stat().st_mtime_ns == times["dvc.yaml"]
    assert (standing / "dvc.lock").read_text() == git(folder, "show", "refs/temper/other:dvc.lock")
    assert git(folder, "status", "--porcelain").split() == [
        "D", "components/answers.py", "M", "presets/other.yaml", "??", "components/new.py",
    ]  # fmt: skip

    shutil.rmtree(standing)  # by hand
    temper("status", "--preset", "other", cwd=folder)
    assert (standing / "dvc.lock").read_text() == "schema: '2.0'\nstages: {}\n"


def test_nothing_is_changed_under_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temper("status", "--preset", "other", cwd=folder)
    standing = folder / ".temper/presets/other"
    (folder / "components/new.py").write_text("# new\n")
    monkeypatch.chdir(standing)
    with driver_lock():
        for words in (["status", "--preset", "other"], ["preset", "remove", "other"]):
            done = temper(*words, cwd=folder)
            assert done.returncode == 1 and f"(pid {os.getpid()})" in done.stderr
    assert standing.exists() and not (standing / "components/new.py").exists()


def test_another_worktree_of_the_user_shares_the_standing_one(folder: Path) -> None:
    beside = folder.parent / "beside"
    git(folder, "worktree", "add", "-q", "-b", "beside", str(beside))
    (beside / "components/new.py").write_text("# new\n")
    assert temper("status", "--preset", "other", cwd=beside).returncode == 0
    assert (folder / ".temper/presets/other/components/new.py").exists()
    assert not (beside / ".temper").exists()


def test_presets_need_a_repository_with_a_commit(folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    for said in ("presets need git", "presets need a first commit"):
        done = temper("run", "--preset", "other", cwd=folder, GIT_CEILING_DIRECTORIES=str(folder.parent))
        assert done.returncode == 2 and said in done.stderr
        git(folder, "init", "-q")
