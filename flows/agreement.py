"""Whether dvc.lock, the outputs that lie in a workspace and the objects of DVC's cache agree. Only looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml.error import YAMLError

from components import objects
from components.errors import TemperError

LOCK = "dvc.lock"


def disagreements(workspace: Path) -> Iterator[tuple[str, str]]:
    """(what disagrees and where, what to do). What is not there is no fault: the next run makes it, or fetches it."""
    lock = workspace / LOCK
    if not lock.exists():
        return
    try:
        stages = objects.locked(lock.read_text("utf-8"))
        store = objects.cache(workspace)
    except (OSError, YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError, TemperError) as error:
        yield f"{lock} or its cache cannot be read: {' '.join(str(error).split())[:200]}", "bring it back from git"
        return
    seen: set[str] = set()
    for stage, outs in stages.items():
        for path, wanted in outs.items():
            yield from _output(workspace / path, stage, wanted)
            yield from _objects(store, wanted, seen)


def _output(path: Path, stage: str, wanted: str) -> Iterator[tuple[str, str]]:
    try:
        if path.exists() and (got := objects.name_of(objects.found(path))) != wanted:
            yield f"{path}: is {got[:12]}, by {LOCK} {stage} made {wanted[:12]}", "`temper run` makes it again"
    except OSError as error:
        yield f"{path}: cannot be read: {error.strerror}", "make it readable, or remove it: `temper run` makes it again"


def _objects(store: Path, oid: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """What is corrupt of an output's objects."""
    try:
        for name in objects.corrupt(store, oid, seen):
            remedy = "remove this file: `temper run` makes what it holds again, or `dvc fetch` brings it"
            yield f"{objects.at(store, name)}: is corrupt, its MD5 is not its name", remedy
    except OSError as error:
        yield f"{store}: cannot be read: {error.strerror}", "make it readable"
