"""DVC as the driver uses it, in process: what is stale, the order of dvc.lock, one driver a workspace."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from components import record
from components.errors import TemperError
from components.files import write_atomic
from flows import run_cache

T = TypeVar("T")
log = logging.getLogger("temper")

BUSY = re.compile(r"is busy, it is being blocked|Unable to acquire lock|failed to lock", re.IGNORECASE)


BUSY_TRIES, BUSY_WAIT_S = 6, 2.0
WHOLE = Path(".dvc/tmp/dvc.lock.whole")  # dvc.lock as it was last seen whole


class Busy(Exception):
    """Another process holds DVC's path locks for a moment; worth a retry."""


class AtWork(TemperError):
    """Another run is at work in this workspace."""


@dataclass(frozen=True)
class Plan:
    """The whole DAG in the order a plain `dvc repro` takes, and what has changed."""

    parents: dict[str, list[str]]
    changes: dict[str, list[str]]  # per changed stage: why, in words
    always: frozenset[str]  # run every time
    outs: frozenset[str]  # paths that stages own, from the workspace's root
    commands: dict[str, str] = field(default_factory=dict)  # what each stage runs, its templates filled in

    def stale(self, apart: str = "") -> dict[str, list[str]]:
        """Changed stages and all below them, in order, each with its stale parents; `apart` counts as unchanged."""
        names: list[str] = []
        for name, parents in self.parents.items():
            if name != apart and (name in self.changes or any(parent in names for parent in parents)):
                names.append(name)
        return {name: [parent for parent in self.parents[name] if parent in names] for name in names}


def _words(status: list[Any]) -> list[str]:
    """DVC's status of one stage in words; empty if nothing changed."""
    verbs = {"modified": "changed", "new": "is new", "deleted": "is missing", "not in cache": "is not in the cache"}
    words: list[str] = []
    for entry in status:
        if entry in ("changed command", "changed checksum"):
            words.append("its command changed")
        if not isinstance(entry, dict):
            continue
        for path, change in entry.get("changed deps", {}).items():
            if isinstance(change, dict):  # a params file
                words += [f"{path}: {key} {verbs.get(how, how)}" for key, how in change.items()]
            else:
                words.append(f"{path} {verbs.get(change, change)}")
        for path, change in entry.get("changed outs", {}).items():
            words.append(f"its output {path} {verbs.get(change, change)}")
    return words


def plan() -> Plan:
    """One locked look at the workspace. Raises Busy, and TemperError when dvc.yaml or dvc.lock cannot be read.

    A dvc.lock that was cut off is put back as it was last seen whole: DVC writes it in place, so a full disk or a kill
    may leave a part of it. DVC refuses most parts; others it takes for the record of fewer stages.
    """
    free_paths()  # a list of holders that was cut off would stop DVC here
    if _cut_off():
        _put_back()
    try:
        found = _plan()
    except TemperError as error:
        if not ("dvc.lock" in str(error.__cause__) and _cut_off(anywhere=True)):
            raise
        _put_back()
        found = _plan()
    keep_lock()
    return found


def _put_back() -> None:
    log.warning("dvc.lock was cut off while it was written; it is put back as it was before, from %s", WHOLE)
    write_atomic(Path("dvc.lock"), WHOLE.read_text("utf-8"))


def keep_lock() -> None:
    """Keep a copy of dvc.lock, which is whole."""
    if Path("dvc.lock").exists():
        with contextlib.suppress(OSError):  # a full disk: then the one before stays
            write_atomic(WHOLE, Path("dvc.lock").read_text("utf-8"))


def _cut_off(anywhere: bool = False) -> bool:
    """Whether dvc.lock ends within a line (or `anywhere`), and can be put back. A merge's conflict is the user's."""
    lock = Path("dvc.lock")
    if not (lock.exists() and WHOLE.exists()):
        return False
    text = lock.read_text("utf-8", errors="replace")
    return (anywhere or not text.endswith("\n")) and "<<<<<<<" not in text


def _plan() -> Plan:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    try:
        with Repo(_wait_for_lock=True) as repo, lock_repo(repo):
            run_cache.clear(Path(repo.cache.legacy.path, "runs"))
            graph = get_active_graph(repo.index.graph)
            order = plan_repro(graph, collect_stages(repo, ["dvc.yaml"]))
            parents = {stage.addressing: sorted(up.addressing for up in graph.successors(stage)) for stage in order}
            always = frozenset(stage.addressing for stage in order if stage.always_changed)
            outs = frozenset(
                Path(out.fs_path).relative_to(repo.root_dir).as_posix()
                for stage in order
                for out in stage.outs
                if out.is_in_repo
            )
            commands = {stage.addressing: stage.cmd for stage in order if isinstance(stage.cmd, str)}
            words = {stage.addressing: _words(stage.status().get(stage.addressing, [])) for stage in order}
    except DvcException as error:
        raise _told(error, "cannot plan") from error
    return Plan(parents, {name: why for name, why in words.items() if why}, always, outs, commands)


def command(name: str) -> str | None:
    """What a stage of dvc.yaml without templates runs; None if it cannot be read: DVC then says why."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        said = YAML(typ="safe").load(Path("dvc.yaml").read_text("utf-8"))["stages"][name]["cmd"]
    except (OSError, YAMLError, KeyError, TypeError):
        return None
    return said if isinstance(said, str) and "${" not in said else None


def commit(name: str) -> None:
    """Enter into dvc.lock and the cache what a stage made by its plain command. Raises Busy, TemperError."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(_wait_for_lock=True) as repo:
            repo.commit(name, force=True)
    except DvcException as error:
        raise _told(error, f"cannot keep what {name} made") from error


def _told(error: Exception, what: str) -> Busy | TemperError:
    """DVC's error as ours."""
    if not BUSY.search(str(error)):
        return TemperError(f"DVC {what}: {error}; `dvc status` shows the whole message")
    path, _, holders = str(error).partition(" is busy")
    pid = re.search(r"PID (\d+)", holders)
    return Busy(f"{path} is held by process {pid[1] if pid else 'unknown'}")


def patiently(work: Callable[[], T]) -> T:
    """Try again while DVC is busy, as the flow's tasks do. Raises TemperError when that lasts."""
    for left in reversed(range(BUSY_TRIES)):
        try:
            return work()
        except Busy as error:
            if not left:
                raise TemperError(f"{error}; another dvc is at work here: wait for it, then try again") from None
            time.sleep(BUSY_WAIT_S)
    raise AssertionError("unreachable")


def canonical_lock(order: list[str]) -> None:
    """Put dvc.lock's entries into `order`, so that it does not depend on which stage finished first."""
    from dvc.repo import Repo
    from dvc.utils.serialize import load_yaml, modify_yaml

    if not Path("dvc.lock").exists():
        return

    def sort(stages: Any) -> list[str]:
        return [name for name in order if name in stages] + [name for name in stages if name not in order]

    if sort(stages := load_yaml("dvc.lock")["stages"]) == list(stages):
        return
    with Repo(_wait_for_lock=True) as repo, repo.lock:
        with modify_yaml("dvc.lock", fs=repo.fs) as content:
            items = {name: content["stages"][name] for name in sort(content["stages"])}
            content["stages"].clear()
            content["stages"].update(items)


def free_paths() -> None:
    """Take the paths from processes that are gone, in DVC's list of who holds which (.dvc/tmp/rwlock).

    DVC itself does so only for a path that somebody wants to write to, by the pid alone, which another may have by
    then; and a list that was cut off by a kill stops every command of it.
    """
    from dvc.lock import LockError, make_lock

    path = Path(".dvc/tmp/rwlock")
    if not path.exists():
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                make_lock(str(path.with_name("rwlock.lock")), tmp_dir=str(path.parent), hardlink_lock=False)
            )
        except LockError:
            return  # another command of DVC's is at it; the next run will see
        try:
            known = json.loads(path.read_text("utf-8"))
            write = {at: held for at, held in known.get("write", {}).items() if _lives(held)}
            read = {at: [held for held in all_ if _lives(held)] for at, all_ in known.get("read", {}).items()}
        except (ValueError, AttributeError, TypeError, KeyError):
            path.unlink()
            return
        kept = {"write": write, "read": {at: held for at, held in read.items() if held}}
        write_atomic(path, json.dumps(kept))


def _lives(held: dict[str, Any]) -> bool:
    return not held or record.process_start(held["pid"]) is not None


@contextlib.contextmanager
def driver_lock() -> Iterator[None]:
    """Only one driver may run stages in a workspace; raises AtWork that names the one that does."""
    path = Path(".dvc/tmp/driver.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise AtWork(
                f"another temper run is at work in {Path.cwd()} (pid {holder}); "
                f"wait for it, or stop it with `kill {holder}`"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
