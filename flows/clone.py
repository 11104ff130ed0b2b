"""A clean clone of the commit that a version was made from, with its data, in a scratch folder of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import objects, registry, remote
from components.errors import TemperError
from flows import snapshot

SCRATCH = Path(".temper/reproduce")  # below the main checkout
RAW = "work/data/raw"  # the data version: what ingest brought in, and all that the stages after it start from


@dataclass
class Clone:
    """`folder` is the workspace in the clone; `main` the checkout that paths in params.yaml are relative to; `locked`
    what dvc.lock said of the outputs when the version was made."""

    top: Path
    folder: Path
    main: Path
    locked: dict[str, dict[str, str]]
    notes: list[str] = field(default_factory=list)

    @property
    def _state(self) -> Path:
        return self.top / ".git/temper-reproduce.json"

    def done(self) -> list[str]:
        """What was already made here, by a run that was stopped."""
        return list(json.loads(self._state.read_text("utf-8"))["done"]) if self._state.exists() else []

    def mark(self, stage: str) -> None:
        aside = self._state.with_suffix(".new")
        aside.write_text(json.dumps({"done": [*self.done(), stage]}), "utf-8")
        aside.replace(self._state)

    def over(self) -> None:
        """It was compared: the next to ask for this version starts anew."""
        self._state.unlink(missing_ok=True)
        (self.top / ".git/temper-over").touch()


def commit_of(version: registry.Version, name: str, workspace: Path) -> str:
    """The commit that holds all that the version was made from. Raises TemperError, with the remedy, if none does."""
    called, tags = f"version {version.version} of {name}", version.tags
    commit = tags.get("git.commit")
    if not commit:
        raise TemperError(
            f"{called}: was made outside of git, so nothing says from what code and params; put the workspace under "
            f"git (git init && git add -A && git commit), then `temper run` keeps a commit of what runs"
        )
    if tags.get("git.dirty") != "false":
        raise TemperError(
            f"{called}: was made from a tree that differed from its commit {commit[:12]}, and no commit of what ran "
            f"was kept; `temper run` and `temper promote` keep one under refs/temper, `dvc repro` does not"
        )
    try:
        found = snapshot.resolve(f"{commit}^{{commit}}", workspace)
    except OSError as error:
        raise TemperError(f"git cannot be run: {error}; install it") from None
    if found is None:
        raise TemperError(
            f"{called}: its commit {commit[:12]} is not in this repository; if another clone has it, "
            f"`git fetch <that clone> 'refs/temper/*:refs/temper/*'` brings it, else it is lost"
        )
    return commit


@contextlib.contextmanager
def made(version: registry.Version, name: str, workspace: Path) -> Iterator[Clone]:
    """The clone of a version's commit: made, or left by a run that was stopped. The block has it for itself."""
    commit = commit_of(version, name, workspace)
    main = registry.root()
    top = main / SCRATCH / f"{name}-{version.version}"
    top.parent.mkdir(parents=True, exist_ok=True)
    with top.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TemperError(f"{top}: another `temper reproduce` makes this version again; wait for it") from None
        whole = (top / ".git").is_dir() and not (top / ".git/temper-over").exists()
        if not whole or snapshot.resolve("HEAD", top) != commit:
            shutil.rmtree(top, ignore_errors=True)
            _clone(workspace, commit, top)
        folder = top / snapshot.git("rev-parse", "--show-prefix", cwd=workspace)
        yield Clone(top, folder, main, _locked(folder, version))


def _clone(workspace: Path, commit: str, top: Path) -> None:
    """Objects are shared with the repository, files are not; no hook or template of the user's takes part."""
    source = snapshot.git("rev-parse", "--path-format=absolute", "--git-common-dir", cwd=workspace)
    words = ("clone", "-q", "--shared", "--no-checkout", "--template=", source, str(top))
    snapshot.git(*words, cwd=workspace)
    snapshot.git("checkout", "-q", "--detach", commit, cwd=top)


def _locked(folder: Path, version: registry.Version) -> dict[str, dict[str, str]]:
    """Empty if the commit's dvc.lock is not the one that the version was made with (`dvc repro` commits nothing)."""
    from components.hashing import sha256_file

    path = folder / "dvc.lock"
    if not path.exists() or sha256_file(path) != version.tags.get("dvc_lock.sha256"):
        return {}
    return objects.locked(path.read_text("utf-8"))


def bring_data(clone: Clone, workspace: Path, params: dict[str, Any]) -> bool:
    """Put the raw data of the version in place by hash; whether that could be done, with a note of how or why not."""
    oid = clone.locked.get("ingest", {}).get(RAW)
    if oid is None:
        clone.notes.append("no dvc.lock of this version is kept, so its data are made anew from their source")
        return False
    try:
        objects.place(objects.cache(workspace), oid, clone.folder / RAW)
        return True
    except objects.Unusable as error:
        clone.notes.append(str(error))
    said = (params.get("policy") or {}).get("push")
    try:
        where = remote.fetch(clone.folder, clone.main, remote.Target.of(said), "ingest")
        objects.place(clone.folder / ".dvc/cache/files/md5", oid, clone.folder / RAW)
    except TemperError as error:
        clone.notes.append(str(error))
        return False
    clone.notes.append(f"the data were pulled from {where}")
    return True


def link_inputs(clone: Clone, params: dict[str, Any]) -> None:
    """Relative paths of source, corpus and checkpoint are those of the main checkout, where git may not know them."""
    model = (params.get("init") or {}).get("model") or {}
    corpus = ((params.get("prepare") or {}).get("corpus") or {}).get("source") or {}
    for given in ((params.get("source") or {}).get("path"), corpus.get("path"), model.get("checkpoint")):
        if not isinstance(given, str) or Path(given).is_absolute():
            continue
        here, there = clone.folder / given, clone.main / given
        if not here.exists() and there.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(there)
