"""What stages that are gone left behind: a variant that was taken out of params.yaml, a stage of an older dvc.yaml."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath

WORK = "work"  # nothing outside is ever removed


def clear(stages: Collection[str], outs: Collection[str]) -> list[str]:
    """Remove outputs and dvc.lock entries of stages that are not among `stages`, the DAG's; returns their names.

    `outs` are the paths that the DAG's stages own. What no entry of dvc.lock names is not ours, and stays.
    """
    from dvc.repo import Repo
    from dvc.utils.serialize import load_yaml, modify_yaml

    if not Path("dvc.lock").exists():
        return []
    gone = {name: entry for name, entry in load_yaml("dvc.lock")["stages"].items() if name not in stages}
    if not gone:
        return []
    for entry in gone.values():
        for out in entry.get("outs", []):
            if _unowned(out["path"], outs):
                _remove(Path(out["path"]))
    with Repo(_wait_for_lock=True) as repo, repo.lock, modify_yaml("dvc.lock", fs=repo.fs) as content:
        for name in gone:
            content["stages"].pop(name, None)
    return list(gone)


def _unowned(path: str, outs: Collection[str]) -> bool:
    """Whether a path is below work/ and neither holds nor belongs to what a stage of today owns."""
    parts = PurePosixPath(path).parts
    if len(parts) < 2 or parts[0] != WORK or ".." in parts:
        return False
    owned = (PurePosixPath(out).parts for out in outs)
    return not any(parts[: len(other)] == other or other[: len(parts)] == parts for other in owned)


def _remove(path: Path) -> None:
    inside = path.parent.resolve().is_relative_to(Path(WORK).resolve())  # not through a link to elsewhere
    if inside and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif inside:
        path.unlink(missing_ok=True)
