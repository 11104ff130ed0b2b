"""Commits beside the user's: nothing of his is touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components.errors import TemperError
from flows import snapshot


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in a path with spaces, of a user whom git does not know, with every kind of unfinished work."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    folder = tmp_path / "a repo"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    for name in ("kept", "changed", "staged", "deleted", "params.yaml"):
        (folder / name).write_text("old\n")
    (folder / ".gitignore").write_text("/ignored\n/.temper/\n")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "first")
    (folder / "staged").write_text("new\n")
    git(folder, "add", "staged")
    (folder / "changed").write_text("new\n")
    (folder / "deleted").unlink()
    (folder / "a new one").write_text("new\n")
    (folder / "ignored").write_text("new\n")
    hook = folder / ".git/hooks/reference-transaction"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    return folder


def everything(repo: Path) -> list[object]:
    words = (["status", "--porcelain"], ["rev-parse", "HEAD"], ["diff"], ["diff", "--cached"], ["branch"])
    files = {path: path.read_bytes() for path in repo.iterdir() if path.is_file()}
    return [*(git(repo, *line) for line in words), (repo / ".git/index").read_bytes(), files]


def take(repo: Path, **blobs: str | None) -> str:
    return snapshot.commit(repo, snapshot.working_tree(repo, blobs), "other", "a message")


def test_a_snapshot_holds_what_is_on_disk_and_touches_nothing(repo: Path) -> None:
    git(repo, "status")  # which freshens the index
    before = everything(repo)
    made = take(repo, **{"params.yaml": snapshot.store(repo, b"merged\n"), "dvc.lock": None})
    assert everything(repo) == before
    assert git(repo, "rev-parse", "refs/temper/other").strip() == made
    assert set(git(repo, "ls-tree", "--name-only", made).splitlines()) == {
        ".gitignore", "a new one", "changed", "kept", "params.yaml", "staged",
    }  # fmt: skip
    shown = {name: git(repo, "show", f"{made}:{name}") for name in ("kept", "changed", "staged", "params.yaml")}
    assert shown == {"kept": "old\n", "changed": "new\n", "staged": "new\n", "params.yaml": "merged\n"}
    assert git(repo, "log", "-1", "--format=%an %ce %P", made).split() == ["temper", "temper@localhost", head(repo)]


def head(repo: Path) -> str:
    return git(repo, "rev-parse", "HEAD").strip()


def test_commits_follow_each_other_and_nothing_new_makes_none(repo: Path) -> None:
    first = take(repo)
    assert take(repo) == first
    (repo / "changed").write_text("newer\n")
    second = take(repo)
    assert git(repo, "log", "-1", "--format=%P", second).split() == [first, head(repo)]


def test_another_that_moved_the_ref_meanwhile_is_not_overwritten(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(repo)
    (repo / "changed").write_text("newer\n")
    real = snapshot.git

    def racing(*words: str, **how: object) -> str:
        if words[0] == "update-ref":
            real("update-ref", "refs/temper/other", head(repo), cwd=repo)
        return real(*words, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot, "git", racing)
    with pytest.raises(TemperError, match="update-ref"):
        take(repo)
    assert git(repo, "rev-parse", "refs/temper/other").strip() == head(repo)


def test_large_files_that_are_not_ignored_are_refused(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "LARGEST_UNTRACKED_MB", 1e-4)  # 100 bytes
    (repo / "images").mkdir()
    for i in range(30):  # none of them is large
        (repo / f"images/{i}.png").write_text("four")
    with pytest.raises(TemperError, match=r"images: .* add it to .gitignore"):
        take(repo)
    (repo / ".gitignore").write_text("/images\n")
    take(repo)


def test_what_ran_is_kept_from_the_standing_worktree(repo: Path) -> None:
    first = take(repo)
    standing = repo / ".temper/presets/other"
    snapshot.git("worktree", "add", "-q", "--detach", str(standing), first, cwd=repo)
    assert snapshot.standing(standing) == "other" and snapshot.standing(repo) is None
    before = everything(repo)
    (standing / "dvc.lock").write_text("locked\n")
    made = snapshot.keep(standing, "other")
    assert everything(repo) == before
    assert git(repo, "show", "refs/temper/other:dvc.lock") == "locked\n"
    assert git(standing, "rev-parse", "HEAD").strip() == made and git(standing, "status", "--porcelain") == ""
    assert git(repo, "log", "-1", "--format=%P", made).strip() == first
    assert snapshot.keep(standing, "other") == made
    (standing / "kept").write_text("by hand\n")  # and then run from inside
    assert git(repo, "show", f"{snapshot.keep(standing, 'other')}:kept") == "by hand\n"


def test_a_checkout_without_a_preset_is_kept_and_left_alone(repo: Path) -> None:
    (repo / ".gitignore").write_text("/ignored\n/.temper/\n/dvc.lock\n")
    (repo / "dvc.lock").write_text("locked\n")
    git(repo, "-c", "core.hooksPath=/dev/null", "update-ref", "--create-reflog", "-m", "mine", "refs/stash", head(repo))
    git(repo, "status")
    before = [*everything(repo), git(repo, "stash", "list")]
    made = snapshot.keep_checkout(repo)
    assert [*everything(repo), git(repo, "stash", "list")] == before
    assert git(repo, "for-each-ref", "--format=%(refname) %(objectname)", "refs/temper").split() == [
        "refs/temper/no-preset", made,
    ]  # fmt: skip
    shown = {name: git(repo, "show", f"{made}:{name}") for name in ("changed", "dvc.lock", "params.yaml")}
    assert shown == {"changed": "new\n", "dvc.lock": "locked\n", "params.yaml": "old\n"}
    assert snapshot.keep_checkout(repo) == made


def test_a_workspace_below_the_top_of_its_repository_is_kept_whole(repo: Path) -> None:
    (repo / "below").mkdir()
    (repo / "below/params.yaml").write_text("mine\n")
    made = snapshot.keep_checkout(repo / "below")
    assert git(repo, "show", f"{made}:below/params.yaml") == "mine\n"
    assert git(repo, "show", f"{made}:params.yaml") == "old\n"


def test_without_git_or_a_commit_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert snapshot.keep_checkout(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert snapshot.keep_checkout(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert snapshot.keep_checkout(tmp_path) is None
