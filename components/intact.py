"""Whether files are what dvc.lock names: DVC checks out a corrupt object of its cache as it is, and says nothing.

What is corrupt is set aside, objects below <cache>/corrupt and the output with them: DVC then fetches it or makes it
again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from components import objects, record
from components.errors import TemperError

LOCK = Path("dvc.lock")
NAME = re.compile(r"[0-9a-f]{32}(\.dir)?")
WRITTEN_S = 0.5  # DVC writes dvc.lock in place: what cannot be right is looked at again


class Changed(TemperError):
    """A file is not what dvc.lock names."""


def check(inputs: Iterable[Path]) -> None:
    """Compare what a stage that DVC runs is given with dvc.lock. Raises Changed, with what to do.

    Of a stage that somebody runs by hand, or `temper reproduce`, dvc.lock need not say anything.
    """
    if record.dvc_process() is None:
        return
    given = list(inputs)
    for attempt in range(4):
        if not (wrong := [(path, oid) for path, oid in _named(given) if not is_what(path, oid)]):
            return
        if attempt < 3:
            time.sleep(WRITTEN_S)
    raise Changed("; ".join(set_aside(path, oid) for path, oid in wrong))


def outputs(stage: str) -> dict[Path, str]:
    """{path: hash} of what a stage made, by dvc.lock."""
    return {Path(path): oid for path, oid in _lock().get(stage, {}).items()}


def is_what(path: Path, oid: str) -> bool:
    """Whether a file or folder is what a hash of DVC's names; of one that is not there, DVC itself will say so."""
    return not path.exists() or objects.name_of(objects.found(path)) == oid


def set_aside(path: Path, oid: str) -> str:
    """What is wrong with an output that is not `oid`, in words; corrupt objects are moved away, and it with them."""
    store = objects.cache(Path.cwd())
    corrupt = list(objects.corrupt(store, oid, set()))
    if not corrupt:
        return f"{path}: was changed after it was made; `dvc repro` makes it again, `dvc commit` takes it as it is"
    aside = store.parents[1] / "corrupt"
    aside.mkdir(parents=True, exist_ok=True)
    for name in corrupt:
        objects.at(store, name).rename(aside / name)
    path.rename(aside / f"output-{oid}-{time.monotonic_ns()}")
    return (
        f"{path}: DVC's cache was corrupt and had brought wrong bytes; they are in {aside} now, "
        f"and the next run fetches or makes it again"
    )


def _lock() -> dict[str, dict[str, str]]:
    """As `objects.locked`; empty for a lock that cannot be read, as DVC says what is wrong with it."""
    from ruamel.yaml.error import YAMLError

    try:
        found = objects.locked(LOCK.read_text("utf-8"))
    except (OSError, YAMLError, AttributeError, KeyError, TypeError):
        return {}
    return {
        stage: {path: oid for path, oid in outs.items() if NAME.fullmatch(str(oid))} for stage, outs in found.items()
    }


def _named(inputs: list[Path]) -> Iterator[tuple[Path, str]]:
    """Outputs in dvc.lock that are among `inputs`, below one of them, or hold one."""
    for outs in _lock().values():
        for out, oid in outs.items():
            path = Path(out)
            if any(path == given or path in given.parents or given in path.parents for given in inputs):
                yield path, oid
