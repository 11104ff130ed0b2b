"""`temper doctor --invariants`: what must hold in a workspace at any time, whatever was killed. Only looks."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
from rich.text import Text

from components import backlog, journal, package, record, registry, rollback, signing
from components.errors import TemperError
from components.stage import ASIDE
from flows import agreement, debris
from flows.snapshot import STANDING
from temper.findings import Finding, show
from temper.workspace import console as wide

Wrong = Iterator[tuple[str, str]]  # what is wrong and where, what to do


def invariants() -> int:
    """Print a line for each invariant that holds, and every violation of those that do not; 1 if there is one."""
    here = Path.cwd()
    os.chdir(next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").exists()), here))
    findings = list(check(Path.cwd()))
    console = wide()
    if failures := show(console, findings):
        console.print(Text(f"{failures} violations", "bold red"))
    return 1 if failures else 0


def check(root: Path) -> Iterator[Finding]:
    """All invariants of a workspace, its presets' worktrees and the embedded store, which may not be there yet."""
    workspaces = [root, *sorted(path.parent for path in root.joinpath(STANDING).glob("*/dvc.yaml"))]
    busy = [folder for folder in workspaces if debris.is_held(folder / debris.LOCKS[0])]
    quiet = [folder for folder in workspaces if folder not in busy]
    yield from _told("aliases", "every alias names a version whose files are as they were registered", aliases)
    yield from _told("journal", "champions are what the journal says, and its chain is whole", champions)
    yield from _told(
        "outputs",
        "dvc.lock, outputs and DVC's cache agree",
        lambda: (wrong for folder in quiet for wrong in agreement.disagreements(folder)),
    )
    yield from _told("runs", "no run claims to be at work whose process is gone", lambda: runs(workspaces))
    yield from _told(
        "left-overs",
        "no process, temporary file or lock of a process that is gone",
        lambda: (wrong for folder in workspaces for wrong in debris.found(folder)),
    )
    for folder in busy:
        yield Finding("note", "outputs", f"{folder}: not looked at, a run is at work there")
    for folder in quiet:
        for path in sorted((folder / ASIDE).glob("*")):
            yield Finding("note", "stopped", f"{path}: the next run goes on with it, or removes it")


def _told(what: str, holds: str, violations: Callable[[], Wrong]) -> Iterator[Finding]:
    found = []
    try:
        found = [Finding("fail", what, wrong, remedy) for wrong, remedy in violations()]
    except TemperError as error:
        said, _, remedy = str(error).partition("; ")
        found = [Finding("fail", what, said, remedy)]
    yield from found or [Finding("ok", what, holds)]


def aliases() -> Wrong:
    for name in _models():
        if name == journal.NAME:
            continue
        for alias, number in sorted(registry.registered(name).aliases.items()):
            try:
                with package.verified(name, number, signing.Keys()):
                    pass
            except (TemperError, OSError) as error:
                remedy = "`temper history` shows where to go back to, `temper rollback` does"
                yield f"{alias} of {name} is version {number}: {error}", remedy


def _models() -> list[str]:
    """Those of the embedded store: a server may have others' too."""
    return registry.names() if registry.database() else []


def champions() -> Wrong:
    for name in _models():
        yield from rollback.disagreements(name)


def runs(workspaces: list[Path]) -> Wrong:
    """Runs of the embedded store that nobody is at work on: those of this host."""
    here = socket.gethostname()
    for run_id, name, tags in registry.running():
        if tags.get("temper.host", tags.get("host", here)) == here and not _at_work(tags, workspaces):
            yield f"run {name} ({run_id}) claims to be at work: its process is gone", "the next `temper run` closes it"


def _at_work(tags: Mapping[str, str], workspaces: list[Path]) -> bool:
    if "temper.pid" in tags:
        return not record.is_gone(tags)
    pipeline = tags.get("pipeline_run", "")
    stage = re.search(r"/(\d+)-(\d+)$", tags.get("temper.record", ""))
    if tags.get("kind") == "stage" and stage and record.process_start(int(stage[1])) == int(stage[2]):
        return True
    if _followed(pipeline):
        return True
    if tags.get("kind") == "stage" and stage:
        return False
    folder = next((at / record.ROOT / pipeline for at in workspaces if (at / record.ROOT / pipeline).is_dir()), None)
    if pipeline and folder:
        return not backlog.is_over(folder)
    driver = re.fullmatch(r"(?:dvc|stage)-(\d+)-\d+|run-\d+-\d+-(\d+)", pipeline)
    return driver is not None and record.process_start(int(driver[1] or driver[2])) is not None


def _followed(pipeline: str) -> bool:
    """Whether what tracks this `dvc repro` is not through with it."""
    match = re.fullmatch(r"dvc-(\d+)-(\d+)", pipeline)
    if match is None:
        return False
    words = ["components.tracking", *match.groups()]
    return any((process.info["cmdline"] or [])[-3:] == words for process in psutil.process_iter(["cmdline"]))
