"""Commits of what ran, under refs/temper/: the user's branch, index, stash and files are never touched.

A standing worktree (.temper/presets/<name> of the main checkout) has HEAD detached at such a commit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from components.errors import TemperError

STANDING = Path(".temper/presets")  # below the main checkout
NO_PRESET = "no-preset"  # refs/temper/no-preset: no preset can be called so
LARGEST_UNTRACKED_MB = 100
IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "temper"), ("EMAIL", "temper@localhost"))
}


def git(*words: str, cwd: Path, given: bytes | None = None, index: Path | None = None) -> str:
    """What git says, stripped; no hook of the user's runs. Raises TemperError with git's own words."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    answer = subprocess.run(
        ["git", "-c", "core.hooksPath=/dev/null", "-c", "advice.addEmbeddedRepo=false", *words],
        cwd=cwd,
        env=known | IDENTITY | ({"GIT_INDEX_FILE": str(index)} if index else {}),
        input=given if given is not None else b"",
        capture_output=True,
        check=False,
    )
    if answer.returncode:
        raise TemperError(f"git {' '.join(words[:2])} in {cwd}: {answer.stderr.decode(errors='replace').strip()}")
    return answer.stdout.decode(errors="surrogateescape").strip()


def resolve(name: str, cwd: Path) -> str | None:
    """The object that a revision names, or None."""
    try:
        return git("rev-parse", "--verify", "--quiet", name, cwd=cwd)
    except TemperError:
        return None


def ref(preset: str) -> str:
    return f"refs/temper/{preset}"


def standing(folder: Path) -> str | None:
    """The preset whose standing worktree this folder is, or None."""
    return folder.name if folder.parent.parts[-2:] == STANDING.parts else None


def store(root: Path, content: bytes) -> str:
    """The blob of these bytes."""
    return git("hash-object", "-w", "--stdin", cwd=root, given=content)


def working_tree(root: Path, blobs: Mapping[str, str | None]) -> str:
    """The tree of all tracked and untracked files of `root` as they are on disk, with `blobs` put in (None: taken out).

    Raises TemperError for more untracked files than git should keep.
    """
    untracked: Counter[str] = Counter()  # bytes below each name at the top: a folder of images is many small files
    for name in filter(None, git("ls-files", "-o", "--exclude-standard", "-z", cwd=root).split("\0")):
        if (root / name).is_file():
            untracked[name.partition("/")[0]] += (root / name).stat().st_size
    if untracked.total() > LARGEST_UNTRACKED_MB * 1e6:
        (name, size), *_ = untracked.most_common(1)
        raise TemperError(
            f"{name}: {size / 1e6:.0f} MB, neither tracked nor ignored, and a run commits all that is not "
            f"ignored, {LARGEST_UNTRACKED_MB} MB at most; add it to .gitignore (source.path may name it all the same)"
        )
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        index = Path(scratch, "index")
        own = Path(git("rev-parse", "--path-format=absolute", "--git-path", "index", cwd=root))
        if own.exists():  # what is unchanged need not be hashed
            shutil.copyfile(own, index)
        git("add", "-A", cwd=root, index=index)
        for name, blob in blobs.items():
            if blob is None:
                git("update-index", "--force-remove", "--", name, cwd=root, index=index)
            else:
                git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", cwd=root, index=index)
        return git("write-tree", cwd=root, index=index)


def commit(root: Path, tree: str, preset: str, message: str) -> str:
    """Commit `tree` on refs/temper/<preset>, with HEAD as a parent; the last commit itself if nothing is new.

    Raises TemperError if another moved the ref meanwhile.
    """
    last, head = resolve(ref(preset), root), resolve("HEAD", root)
    parents = [parent for parent in dict.fromkeys((last, head)) if parent]
    if last and resolve(f"{last}^{{tree}}", root) == tree and (head is None or _contains(root, last, head)):
        return last
    words = [word for parent in parents for word in ("-p", parent)]
    made = git("commit-tree", tree, *words, cwd=root, given=message.encode())
    git("update-ref", "-m", "temper", ref(preset), made, last or "0" * len(made), cwd=root)
    return made


def _contains(root: Path, last: str, head: str) -> bool:
    try:
        git("merge-base", "--is-ancestor", head, last, cwd=root)
    except TemperError:
        return False
    return True


def keep(worktree: Path, preset: str) -> str:
    """Commit the standing worktree as it is now, params.yaml and dvc.lock with it, and move its HEAD there."""
    present = [name for name in ("params.yaml", "dvc.lock") if (worktree / name).exists()]
    git("add", "-u", cwd=worktree)  # a run by hand, from inside, may be of code that was changed there
    git("add", "-f", "--", *present, cwd=worktree)
    made = commit(worktree, git("write-tree", cwd=worktree), preset, f"temper: {preset}, as it ran")
    git("update-ref", "--no-deref", "HEAD", made, cwd=worktree)
    return made


def keep_checkout(root: Path) -> str | None:
    """Commit a checkout that runs without a preset, as it is on disk, to refs/temper/no-preset; nothing of it changes.

    Returns the commit, None where there is no git or no first commit. Raises TemperError for what git cannot keep.
    """
    try:
        if resolve("HEAD", root) is None:
            return None
    except OSError:  # no git
        return None
    prefix = git("rev-parse", "--show-prefix", cwd=root)  # the workspace may lie below the top of its repository
    kept = [name for name in ("params.yaml", "dvc.lock") if (root / name).exists()]  # ignored or not
    blobs = {f"{prefix}{name}": store(root, (root / name).read_bytes()) for name in kept}
    return commit(root, working_tree(root, blobs), NO_PRESET, "temper: as it ran")
