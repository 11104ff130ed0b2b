"""What DVC's cache keeps: all that this checkout, its presets and every registered version need; the rest may go.

DVC's own `gc` looks at branches, tags and the workspace. What a registered version is from is named by commits below
refs/temper/ alone, which it does not see, not even with --all-commits: `temper reproduce` would miss the data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from components import journal, registry
from components.errors import TemperError
from flows import snapshot
from flows.dvc import driver_lock


@dataclass(frozen=True)
class Kept:
    """Whose objects stay: folders by their dvc.lock of now, commits by theirs."""

    folders: tuple[Path, ...]  # this checkout, and the standing worktrees of presets
    commits: tuple[str, ...]
    versions: int  # registered versions whose commits these are
    unknown: tuple[str, ...]  # versions that name no commit, or one that is not here


def kept(main: Path) -> Kept:
    """What must stay, of the checkout `main`: each registered version of each model, whichever alias it has or had."""
    folders = [main, *sorted(path.parent for path in main.glob(f"{snapshot.STANDING}/*/.dvc") if path.is_dir())]
    commits = [commit for ref in _refs(main) if (commit := snapshot.resolve(ref, main))]
    unknown, versions = [], 0
    for name in set(registry.names()) - {journal.NAME}:
        for version in registry.versions(name):
            versions += 1
            commit = version.tags.get("git.commit", "")
            if commit and snapshot.resolve(f"{commit}^{{commit}}", main):
                commits.append(commit)
            else:
                unknown.append(f"{name} {version.version}")
    return Kept(tuple(folders), tuple(dict.fromkeys(commits)), versions, tuple(unknown))


def _refs(main: Path) -> list[str]:
    """The last commit of each preset: its next run starts from there."""
    try:
        return snapshot.git("for-each-ref", "--format=%(refname)", "refs/temper/", cwd=main).split()
    except (TemperError, OSError):
        return []  # no git, and so no commit of anything


def collect(main: Path, keep: Kept, dry_run: bool) -> tuple[int, int]:
    """(objects removed from DVC's cache, bytes freed), or that would be, of the workspace `main`.

    Raises AtWork while a run is at work in one of the folders, TemperError for a commit that DVC cannot read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo
    from dvc_data.hashfile.gc import gc

    with _still(keep.folders), chdir(main), contextlib.ExitStack() as stack:
        used = set()
        repo = stack.enter_context(Repo(str(main), _wait_for_lock=True))
        stack.enter_context(lock_repo(repo))
        try:
            for folder in keep.folders:
                own = repo if folder == main else stack.enter_context(Repo(str(folder), _wait_for_lock=True))
                revisions = list(keep.commits) if folder == main else None
                for objects in own.used_objs(revs=revisions).values():
                    used |= objects
        except DvcException as error:
            raise TemperError(f"nothing was removed: DVC cannot say what is in use: {error}") from error
        removed = freed = 0
        for odb in {id(odb): odb for _, odb in repo.cache.by_scheme() if odb}.values():
            removed += gc(odb, used, dry=True)
            before = _bytes(Path(odb.path))
            if not dry_run:
                gc(odb, used)
                freed += before - _bytes(Path(odb.path))
        return removed, freed


@contextlib.contextmanager
def _still(folders: tuple[Path, ...]) -> Iterator[None]:
    """No run is at work in any of the folders inside this block: its outputs are not in dvc.lock yet."""
    with contextlib.ExitStack() as stack:
        for folder in folders:
            with chdir(folder):
                stack.enter_context(driver_lock())
        yield


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
