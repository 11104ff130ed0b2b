"""The matrix of a git revision: dvc.lock names its hash there, DVC's cache has the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.errors import TemperError
from flows import snapshot

MATRIX = "work/matrix"


def matrix_text(revision: str) -> tuple[str, str]:
    """(commit, text of matrix.json) of the workspace in the current folder.

    Raises TemperError where git does not know the revision, it has no matrix, or the cache lacks it.
    """
    here = Path.cwd()
    commit = snapshot.resolve(f"{revision}^{{commit}}", here)
    if commit is None:
        raise TemperError(f"{revision}: is no registered version, alias or git revision here; see `git log --oneline`")
    short = commit[:12]
    try:
        lock = snapshot.git("show", f"{commit}:./dvc.lock", cwd=here)
    except TemperError:
        raise TemperError(
            f"{revision} ({short}): has no dvc.lock, so nothing says what was measured there; commit dvc.lock with "
            f"each run that you want to compare with"
        ) from None
    listed = _hash(lock)
    if listed is None:
        raise TemperError(f"{revision} ({short}): its dvc.lock names no {MATRIX}: the matrix was not made there")
    return commit, _cached(listed, f"{revision} ({short})")


def _hash(lock: str) -> str | None:
    """What dvc.lock says of the matrix's folder."""
    from ruamel.yaml import YAML

    stages: dict[str, Any] = (YAML(typ="safe").load(lock) or {}).get("stages", {})
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return next((str(out["md5"]) for out in outs if out["path"] == MATRIX), None)


def _cached(folder: str, where: str) -> str:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            cache = repo.cache.local
            listing, gone = Path(cache.oid_to_path(folder)), f"{cache.path}"
            if listing.exists():
                names = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text("utf-8"))}
                file = Path(cache.oid_to_path(names["matrix.json"]))
                if file.exists():
                    return file.read_text("utf-8")
    except DvcException as error:
        raise TemperError(f"DVC cannot open its cache: {error}") from error
    raise TemperError(
        f"{where}: DVC's cache ({gone}) lacks its matrix, {folder}; `dvc fetch --all-commits compare` brings it if a "
        f"remote has it, else check that revision out and `dvc repro compare`"
    )
