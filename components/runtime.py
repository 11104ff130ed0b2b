"""A build as it ships: a folder with the model file and build.json, opened by the runtime that it names.

build.json: {kind, runtime: one of components/runtimes/, file, sha256, session: options found to be best, spec},
for an engine also `key`: what it was made for. Of text tokenizer.json stands beside it, whose sha256 the spec has.
Nothing outside the folder is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.data import TOKENIZER, Spec
from components.hashing import sha256_file
from components.params import Target
from components.runtimes import RUNTIMES
from components.session import BuildError, Runtime, Session
from components.targets import TARGETS


def runtime_of(target: Target) -> Runtime:
    """What opens the builds of this target."""
    return RUNTIMES[TARGETS[target.kind].RUNTIME]


def code_of(target: Target) -> tuple[str, str]:
    """The files of the target and of its runtime: part of what its cells are made with."""
    return f"components/targets/{target.kind}.py", f"components/runtimes/{TARGETS[target.kind].RUNTIME}.py"


def folder_of(target: Target, name: str, builds: Path, engines: Path) -> Path:
    """Where the build of this target lies: with what is built on the processor, or on a device."""
    return (engines if runtime_of(target).DEVICE else builds) / name


def ship(target: Target, folder: Path, data: Path, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Write the build.json of what the target wrote to `folder`, and what of the prepared data it needs beside it.

    Returns the figures, with those of what ships. A figure `session`, the options with which this build is best
    opened, takes the place of its runtime's.
    """
    spec = Spec.read(data)
    if spec.vocabulary is not None:
        shutil.copyfile(data / TOKENIZER, folder / TOKENIZER)
    opened_by = runtime_of(target)
    session = figures.get("session", opened_by.SESSION)
    key = {name: value for name, value in figures.items() if name == "key"}
    shipped = write_build(folder, target.kind, TARGETS[target.kind].RUNTIME, opened_by.FILE, session, spec, **key)
    return {**shipped, **{name: value for name, value in figures.items() if name not in ("key", "session")}}


def write_build(
    folder: Path, kind: str, runtime: str, file: str, session: Mapping[str, Any], spec: Spec, **more: Any
) -> dict[str, Any]:
    """Write build.json beside the model file; returns {bytes, digest} of what ships."""
    card = {
        "kind": kind,
        "runtime": runtime,
        "file": file,
        "sha256": sha256_file(folder / file),
        "session": dict(session),
        "spec": spec.model_dump(),
        **more,
    }
    (folder / "build.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", "utf-8")
    return {"bytes": (folder / file).stat().st_size, "digest": digest(folder)}


def digest(folder: Path) -> str:
    """Identity of what ships: one hash over the model file and build.json."""
    card = json.loads((folder / "build.json").read_text("utf-8"))
    total = hashlib.sha256()
    for name in (_plain(folder, card), "build.json"):
        total.update(f"{name}\0{sha256_file(folder / name)}\n".encode())
    return total.hexdigest()


def _plain(folder: Path, card: Mapping[str, Any]) -> str:
    name = card["file"]
    if not isinstance(name, str) or Path(name).name != name or (folder / name).is_symlink():
        raise BuildError(f"{folder}/build.json: file must name a file in this folder, got {name!r}; build it again")
    return name


def open_build(folder: Path, threads: int) -> Session:
    """Open the build in `folder`. Raises BuildError if it is broken, changed, or reads what lies outside."""
    try:
        card = json.loads((folder / "build.json").read_text("utf-8"))
        spec, name = Spec.model_validate(card["spec"]), _plain(folder, card)
        content = (folder / name).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{folder}: is no build: {' '.join(str(error).split())[:200]}; build it again") from error
    found = hashlib.sha256(content).hexdigest()
    if card.get("sha256", found) != found:
        raise BuildError(
            f"{folder}/{name}: its sha256 is {found[:12]}, build.json says {card['sha256'][:12]}: "
            f"the file was changed after it was built; build it again"
        )
    runtime = RUNTIMES.get(str(card.get("runtime")))
    if runtime is None:
        known = ", ".join(RUNTIMES)
        raise BuildError(f"{folder}/build.json: runtime must be one of {known}, got {card.get('runtime')!r}")
    return runtime.open(content, card, threads, spec, f"{folder}/{name}")


def takes(folder: Path, size: int) -> bool:
    """Whether the build in `folder` answers batches of this size as they are."""
    card = json.loads((folder / "build.json").read_text("utf-8"))
    return RUNTIMES[card["runtime"]].takes(card, size)
