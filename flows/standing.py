"""The standing worktree of a preset: the user's code as it is now, the merged params, DVC's cache shared."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from components import objects
from components.errors import ParamsError, TemperError
from components.params.section import NAME
from flows import overlay, snapshot
from flows.dvc import driver_lock


def main_checkout(root: Path) -> Path:
    """The checkout whose .git all worktrees share. Raises ParamsError where there can be no standing worktree."""
    try:
        top, common = (
            Path(snapshot.git("rev-parse", "--path-format=absolute", what, cwd=root))
            for what in ("--show-toplevel", "--git-common-dir")
        )
    except (TemperError, OSError) as error:
        raise ParamsError([f"{root}: presets need git: {error}; run git init && git add -A && git commit"]) from None
    if top.resolve() != root.resolve():
        raise ParamsError([f"{root}: presets need the workspace to be the top of its repository, which is {top}"])
    if snapshot.resolve("HEAD", root) is None:
        raise ParamsError([f"{root}: presets need a first commit; run git add -A && git commit"])
    return common.parent.resolve() if common.name == ".git" else root.resolve()


def checkouts(root: Path) -> tuple[Path, Path]:
    """(whose params, presets and code are meant, the main checkout).

    From inside a standing worktree it is the main one: a preset lies over the user's params, not another preset's.
    """
    main = main_checkout(root)
    return (main if snapshot.standing(root) else root), main


def path(main: Path, preset: str) -> Path:
    if not re.fullmatch(NAME, preset):
        raise ParamsError([f"{preset!r}: a preset's name has small letters, digits and _ only"])
    return main / snapshot.STANDING / preset


def head(folder: Path) -> str:
    return snapshot.git("rev-parse", "HEAD", cwd=folder)


@contextlib.contextmanager
def _locked(main: Path, preset: str) -> Iterator[None]:
    """One at a time makes, changes or removes the worktree."""
    file = path(main, preset).with_suffix(".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def refresh(root: Path, preset: str) -> Path:
    """Bring the preset's worktree to the user's code and params of now; returns it.

    Raises ParamsError for a preset that is wrong, TemperError while a run is at work there.
    """
    main = main_checkout(root)
    text = overlay.merged(root, main, preset)
    folder = path(main, preset)
    with _locked(main, preset), contextlib.ExitStack() as stack:
        moved = _moved(folder)
        if moved:
            snapshot.git("worktree", "repair", str(folder), cwd=main)
        if (folder / ".dvc").is_dir():
            stack.enter_context(contextlib.chdir(folder))
            stack.enter_context(driver_lock())
            _unchanged_by_hand(folder)
        blobs = {"params.yaml": snapshot.store(root, text.encode()), "dvc.lock": _lock(main, folder, preset)}
        tree = snapshot.working_tree(root, blobs)
        made = snapshot.commit(root, tree, preset, f"temper: {preset}, before a run")
        if not (folder / ".git").exists():
            snapshot.git("worktree", "add", "-f", "--no-checkout", "--detach", str(folder), made, cwd=root)
        snapshot.git("checkout", "-q", "--force", "--detach", made, cwd=folder)
        if moved or not (folder / ".dvc/config.local").exists():
            _share_cache(main, folder)
    return folder


def enter(main: Path, folder: Path, fresh: bool) -> None:
    """Let this process work in the worktree; with `fresh`, what it makes names the commit of now."""
    os.environ["TEMPER_ROOT"] = str(main)
    if fresh:
        os.environ["TEMPER_COMMIT"] = head(folder)
    os.chdir(folder)


def _moved(folder: Path) -> bool:
    """Whether the checkout was moved with the worktree in it: git and DVC know both by their absolute paths."""
    link = folder / ".git"
    return link.is_file() and not Path(link.read_text("utf-8").removeprefix("gitdir:").strip()).exists()


def _unchanged_by_hand(folder: Path) -> None:
    """Raises TemperError for changes in the worktree that making it anew would throw away."""
    changed = set(snapshot.git("diff", "--name-only", "HEAD", cwd=folder).splitlines()) - {"params.yaml", "dvc.lock"}
    if changed:
        raise TemperError(
            f"{folder}: changed there by hand: {', '.join(sorted(changed))}; bring the changes to your own checkout, "
            f"then drop them with `git -C '{folder}' checkout -- .`"
        )


def _lock(main: Path, folder: Path, preset: str) -> str | None:
    """The blob of the preset's own dvc.lock: that of the worktree, else the last that was committed."""
    if (folder / "dvc.lock").exists():
        return snapshot.store(main, (folder / "dvc.lock").read_bytes())
    if (folder / ".git").exists():
        return None
    return snapshot.resolve(f"{snapshot.ref(preset)}:dvc.lock", main)


def _share_cache(main: Path, folder: Path) -> None:
    """Let the worktree's DVC use the cache of the main checkout."""
    objects.dvc(folder, "cache", "dir", "--local", str(objects.cache(main).parents[1]))


def remove(root: Path, preset: str) -> bool:
    """Take the worktree away (not the ref, the cache or the registry); whether there was one."""
    main = main_checkout(root)
    folder = path(main, preset)
    if not folder.is_dir():
        return False
    with _locked(main, preset):
        if (folder / ".dvc").is_dir():
            with contextlib.chdir(folder), driver_lock():
                snapshot.keep(folder, preset)
                shutil.rmtree(folder / "work", ignore_errors=True)
                snapshot.git("worktree", "remove", "--force", str(folder), cwd=main)
        else:
            snapshot.git("worktree", "remove", "--force", str(folder), cwd=main)
    return True
