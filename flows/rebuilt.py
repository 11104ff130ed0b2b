"""Whether what was made again in a clone, the current folder, is what it was; else which file differs, and how far."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from components import difference, objects, registry, runtime
from components.hashing import sha256_file, sha256_tree
from flows import clone
from flows.drive import FIRST

WORK = Path("work")
COMPARED = 5  # differing outputs that are told of a stage


def stage(name: str, made: clone.Clone, workspace: Path) -> str:
    """Whether a stage's outputs are what dvc.lock says they were; else which file differs and by how much."""
    outs = made.locked.get(name)
    if outs is None:
        return "not known what it was"
    if name == FIRST:
        return "looked at anew"  # what it saw is of its own time and machine
    told: list[str] = []
    for path, oid in outs.items():
        if not Path(path).exists():
            told.append(f"{path} was not made")
            continue
        found = objects.found(Path(path))
        if objects.name_of(found) != oid:
            told += list(_apart(Path(path), found, oid, objects.cache(workspace)))
    return "; ".join(told[:COMPARED]) or "equal"


def _apart(path: Path, found: Mapping[str, str], oid: str, store: Path) -> Iterator[str]:
    """Each file below `path` that differs from what `oid` names, as far as the cache still knows that."""
    try:
        before = objects.listing(store, oid)
    except objects.Unusable:
        yield f"{path} differs (what it was is not in DVC's cache)"
        return
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        for name in sorted({*before, *found}):
            if before.get(name) == found.get(name):
                continue
            original = Path(scratch, "original", name or path.name)
            original.parent.mkdir(parents=True, exist_ok=True)
            shown = str(path / name) if name else str(path)
            try:
                original.write_bytes(objects.read(store, oid, name))
            except objects.Unusable as error:
                yield f"{shown} differs ({error})"
                continue
            yield f"{shown}: {difference.files(original, path / name if name else path)}"


def build(version: registry.Version, original: Path) -> tuple[str, list[str]]:
    """(digest of the build that was made, what differs from what was registered, and from its data)."""
    cell = Path(version.tags["variant"], version.tags["target"])
    folder = next((f for f in (WORK / "builds" / cell, WORK / "engines" / cell) if (f / "build.json").exists()), None)
    data = WORK / "data/prepared"
    differ: list[str] = []
    if (then := version.tags.get("data.sha256")) and (now := sha256_tree(data)) != then:
        differ.append(f"the prepared data: sha256 {now[:12]}, they were {then[:12]}")
    if folder is None:
        record = WORK / "builds" / cell / "record.json"
        why = json.loads(record.read_text("utf-8")).get("reason", "") if record.exists() else ""
        differ.append(f"no build {cell} was made this time: {why or 'see the log of its stage'}")
        return "", differ
    digest = runtime.digest(folder)
    if digest != version.digest:
        differ += difference.builds(original, folder)
        differ.append(f"logits: {difference.logits(original, folder, data, os.cpu_count() or 1)}")
    return digest, differ


def elsewhere(made: clone.Clone, version: registry.Version, workspace: Path) -> Iterator[str]:
    """What of Python, packages and processor is not as it was."""
    here = platform.python_version()
    if (then := version.tags.get("python", here)) != here:
        yield f"Python {then} then, {here} now"
    lock = made.folder / "constraints.txt"
    if lock.exists() and sha256_file(lock) == version.tags.get("constraints.sha256"):
        others = _packages(lock.read_text("utf-8"))
        if others:
            yield f"{len(others)} packages are not those of the lock file: {', '.join(others[:4])}"
    with suppress(KeyError, ValueError, OSError, objects.Unusable):  # then it is not known what was there
        oid = made.locked[FIRST]["work/observed"]
        before = json.loads(objects.read(objects.cache(workspace), oid, "host.json"))
        now = json.loads((made.folder / WORK / "observed/host.json").read_text("utf-8"))
        for key in ("machine", "isa", "gpu"):
            if before.get(key) != now.get(key):
                yield f"{key}: {before.get(key)} then, {now.get(key)} now"


def _packages(lock: str) -> list[str]:
    """Packages of a lock file that are installed in another version here."""
    from importlib import metadata

    from packaging.requirements import InvalidRequirement, Requirement

    others = []
    for line in lock.splitlines():
        try:
            wanted = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        with suppress(metadata.PackageNotFoundError):  # not all of a lock file is for every machine
            here = metadata.version(wanted.name)
            if wanted.specifier.contains(here, prereleases=True):
                continue
            others.append(f"{wanted.name} {str(wanted.specifier).lstrip('=')} then, {here} now")
    return others
