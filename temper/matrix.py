"""`temper matrix`: the last matrix, what was chosen and why; or what changed in it since another."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from components.errors import TemperError
from temper import workspace

MATRIX, DECISION = Path("work/matrix/matrix.json"), Path("work/decision/decision.json")
REPORT, DATA = Path("work/decision/report.html"), Path("work/data/prepared")


def read() -> dict[str, Any]:
    """The matrix of this workspace. Raises TemperError if there is none, or one of another schema version."""
    from components import matrix_json

    return matrix_json.read(MATRIX, f"`{workspace.command('run')}` makes it")


def read_decision() -> dict[str, Any] | None:
    """The decision, or None if there is none yet. Raises TemperError for one that is not of this matrix."""
    from components.hashing import sha256_file

    if not DECISION.exists():
        return None
    try:
        decision: dict[str, Any] = json.loads(DECISION.read_text("utf-8"))
    except ValueError as error:
        raise TemperError(f"{DECISION}: is no JSON: {error}; `dvc repro decide` makes it anew") from None
    if MATRIX.exists() and decision.get("matrix_sha256") != sha256_file(MATRIX):
        raise TemperError(f"{DECISION}: was not made of {MATRIX} as it is now; `dvc repro decide` decides anew")
    return decision


def show(console: Console) -> None:
    """Print the table and the decision. Raises TemperError if there is no matrix yet."""
    from components.report import terminal

    matrix, decision, stale = read(), None, ""
    try:
        decision = read_decision()
    except TemperError as error:
        stale = str(error)
    console.print(terminal.table(matrix, decision, console.width))
    if decision is not None:
        console.print(Text.assemble(("decision: ", "bold"), f"{decision['action']}: {decision.get('reason', '')}"))
        if done := _done(decision):
            console.print(Text(done, style="yellow"))
        for cell in decision["failed"]:
            reason = next((row["reason"] for row in matrix["cells"] if row["cell"] == cell), "")
            console.print(Text(f"failed: {cell}: {reason}", style="bold red"))
        console.print(Text(f"pictures and details: {REPORT}", style="dim"))
    if stale:
        console.print(Text(f"no decision is shown: {stale}", style="bold yellow"))
    console.print(
        Text(f"why each cell may or may not be promoted: {workspace.command('promote --dry-run')}", style="dim")
    )


def _done(decision: Mapping[str, Any]) -> str | None:
    """Why promote has nothing to do, in words: the winner is the champion, or was rolled back. None if it has."""
    from components import keeping, params

    if decision["winner"] is None:
        return None
    try:
        return keeping.nothing_to_do(params.load().name, decision["winner"], DATA, again=False)
    except TemperError as error:
        return f"whether it was promoted cannot be told: {error}"


def against(console: Console, other: str) -> None:
    """Print what changed since a registered version (number or alias) or a git revision."""
    from components.report import changes

    now = read()
    since, then = _then(other)
    console.print(changes.table(then, now, since, console.width))


def _then(other: str) -> tuple[str, dict[str, Any]]:
    """(what it is called, its matrix)."""
    from components import matrix_json, params, registry

    name = params.load().name
    number = int(other) if other.isdigit() else registry.registered(name).aliases.get(other)
    if number is not None:
        since = f"version {number} of {name}"
        text = _registered(name, number, since)
        return since, matrix_json.parse(text, f"the matrix of {since}", "compare with a newer version")
    from flows import revision

    commit, text = revision.matrix_text(other)
    since = f"{other} ({commit[:12]})" if not commit.startswith(other) else commit[:12]
    return since, matrix_json.parse(text, f"the matrix of {since}", "compare with a newer revision")


def _registered(name: str, number: int, since: str) -> str:
    """The text of the matrix that a version was registered with."""
    from components import registry, versions

    version = registry.find(name, str(number))
    if (kept := version.tags.get("matrix")) is None:
        commit = version.tags.get("git.commit")
        instead = f"; its git commit may have it: `temper matrix --against {commit[:12]}`" if commit else ""
        raise TemperError(f"{since} was registered before matrices were kept with versions{instead}")
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        return versions.download(kept, Path(scratch)).read_text("utf-8")
