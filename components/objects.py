"""What dvc.lock names by hash, brought from DVC's cache and hashed again: DVC checks out a corrupt object as it is.

A folder is named by the MD5 of its listing, `<md5>.dir`: JSON, of each file its path and MD5.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache as cached
from pathlib import Path
from typing import Any

from components.errors import TemperError


class Unusable(TemperError):
    """An object that is not in the cache, or not what its name says."""


def locked(text: str) -> dict[str, dict[str, str]]:
    """{stage: {path of an output: its hash}} of a dvc.lock, in its order."""
    from ruamel.yaml import YAML

    stages: Mapping[str, Any] = (YAML(typ="safe").load(text) or {}).get("stages") or {}
    return {
        name: {out["path"]: out["md5"] for out in stage.get("outs", []) if "md5" in out}
        for name, stage in stages.items()
    }


@cached
def cache(workspace: Path) -> Path:
    """The folder of the objects of a workspace's DVC. Raises TemperError if DVC cannot say."""
    return Path(dvc(workspace, "cache", "dir")) / "files/md5"


def dvc(workspace: Path, *words: str) -> str:
    """What `dvc` with these words prints there. Raises TemperError with what it says if it fails."""
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=workspace,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise TemperError(f"dvc {' '.join(words)} in {workspace}: {answer.stderr.strip()[-300:]}")
    return answer.stdout.strip()


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _md5(content: bytes = b"") -> Any:
    return hashlib.md5(content, usedforsecurity=False)  # DVC's choice: a name, and a guard against chance


def found(path: Path) -> dict[str, str]:
    """{path below it: MD5} of an output as it lies there; a file's own path is empty."""
    if path.is_file():
        return {"": md5(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): md5(file) for file in files}


def name_of(files: Mapping[str, str]) -> str:
    """The hash by which DVC names an output with these files."""
    if set(files) == {""}:
        return files[""]
    entries = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return f"{_md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()}.dir"


def listing(store: Path, oid: str) -> dict[str, str]:
    """{path below it: MD5} of what `oid` names. Raises Unusable if its listing is gone or corrupt."""
    if not oid.endswith(".dir"):
        return {"": oid}
    path = at(store, oid)
    try:
        content = path.read_bytes()
    except OSError:
        raise Unusable(f"{path}: is not in DVC's cache") from None
    if _md5(content).hexdigest() != oid.removesuffix(".dir"):
        raise Unusable(f"{path}: is corrupt, its MD5 is {_md5(content).hexdigest()}")
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def corrupt(store: Path, oid: str, seen: set[str]) -> Iterator[str]:
    """Names of the objects that `oid` is made of, and that are there but not what their names say.

    Those in `seen` were looked at before; it grows.
    """
    if oid in seen:
        return
    try:
        names = set(listing(store, oid).values())
    except Unusable:
        names = set()
        if at(store, oid).exists():
            yield oid
    for name in sorted(names - seen):
        if (path := at(store, name)).exists() and md5(path) != name:
            yield name
    seen |= names | {oid}


def read(store: Path, oid: str, name: str) -> bytes:
    """One file of what `oid` names. Raises Unusable if it is gone or corrupt."""
    wanted = listing(store, oid).get(name)
    if wanted is None:
        raise Unusable(f"{at(store, oid)}: names no {name}")
    try:
        content = at(store, wanted).read_bytes()
    except OSError:
        raise Unusable(f"{at(store, wanted)}: is not in DVC's cache") from None
    if _md5(content).hexdigest() != wanted:
        raise Unusable(f"{at(store, wanted)}: is corrupt, its MD5 is {_md5(content).hexdigest()}")
    return content


def place(store: Path, oid: str, to: Path) -> int:
    """Copy what `oid` names to `to`, hashing every byte that arrives; returns the number of files.

    Raises Unusable for an object that is gone or corrupt; `to` is then as it was.
    """
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        files = listing(store, oid)
        for name, wanted in files.items():
            source, target = at(store, wanted), aside / name if name else aside
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise Unusable(f"{at(store, oid)}: names {name!r}, which is outside of its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, target)
            except OSError as error:
                raise Unusable(f"{source}: is not in DVC's cache ({error.strerror})") from None
            if (got := md5(target)) != wanted:
                raise Unusable(f"{source}: is corrupt, its MD5 is {got}")
        shutil.rmtree(to, ignore_errors=True)
        to.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(to)
        return len(files)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)


def at(store: Path, oid: str) -> Path:
    """Where an object lies."""
    return store / oid[:2] / oid[2:]
