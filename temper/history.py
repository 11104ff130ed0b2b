"""`temper history`: every move of the champion, newest first; as JSON lines; or who it was at a moment."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from components import journal, params
from components.errors import ParamsError, TemperError
from components.journal import Line
from temper import workspace

STYLES = {"promote": "green", "rollback": "yellow", "found": "dim"}


def history(as_json: bool, at: str | None) -> None:
    """Raises TemperError, after all was shown, if the journal is broken."""
    from components.rollback import troubles

    name = params.load().name
    known = journal.read()
    if at is not None:
        _at(known, name, at, as_json)
    elif as_json:
        sys.stdout.writelines(f"{line.text}\n" for line in known.lines)
    else:
        _table(known.of(name), name)
    if wrong := [f"{what}; {remedy}" for what, remedy in troubles(name)]:
        raise TemperError("\n".join(wrong))


def moved(line: Line) -> str:
    return f"{'none' if line.before is None else line.before} to {line.to}"


def who(line: Line) -> str:
    return f"{line.fields.get('who', '?')}@{line.fields.get('host', '?')}"


def _table(lines: list[Line], name: str) -> None:
    console = workspace.console()
    if not lines:
        console.print(f"No version of {name} was promoted yet; `{workspace.command('run')}` ends with that.")
        return
    table = Table("line", "when (UTC)", "what", "version", "cell", "who", "why", box=None, header_style="dim")
    for line in reversed(lines):
        cell = (line.fields.get("evidence") or {}).get("cell") or ""
        style = STYLES.get(line.action, "")
        when = line.time.removesuffix("Z").replace("T", " ")
        reason = Text(str(line.fields.get("reason", "")), overflow="fold")
        table.add_row(str(line.number), when, Text(line.action, style), moved(line), cell, who(line), reason)
    console.print(table)


def _at(known: journal.Journal, name: str, at: str, as_json: bool) -> None:
    try:
        given = datetime.fromisoformat(at)
    except ValueError:
        raise ParamsError([f"--at: must be a time like 2026-11-01T12:00 (UTC) or with an offset, got {at!r}"]) from None
    moment = (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = journal.at(known, name, moment)
    if as_json:
        sys.stdout.write(f"{line.text}\n" if line else "")
        return
    if line is None:
        said = f"At {moment} {name} had no champion."
    else:
        lines = known.of(name)
        later = lines[lines.index(line) + 1 :]
        until = f", until {later[0].time}" if later else ", and is still"
        cell = (line.fields.get("evidence") or {}).get("cell")
        said = (
            f"At {moment} version {line.to} of {name} was the champion{f' ({cell})' if cell else ''}: since {line.time}"
        )
        said += f"{until}. It came by {line.action}, {who(line)}: {line.fields.get('reason', 'no reason was kept')}"
    workspace.console().print(Text(said), soft_wrap=True)
