"""The journal of promotions: who moved which champion when, from, to, on what evidence, and why.

Append-only, a JSON line each, which holds the sha256 of the line before it. The embedded store has it beside its
database, as promotions.jsonl. On an MLflow server it is the registered model `temper-journal`, a version a line: the
server gives each number once, so of two writers who claim one the later gets another, and its line is void. Lines
without a hash are from before lines were chained; they may only come first. What the last line of a model is stands
in a tag of that model too, so that a line taken from the end is missed.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components import registry
from components.errors import TemperError

NAME = "temper-journal"  # of the registered model that holds it on a server
TAG = "line"
Action = Literal["promote", "rollback", "found"]  # found: somebody moved the alias without Temper


class Raced(Exception):
    """Another writer was first; nothing was journalled."""


@dataclass(frozen=True)
class Line:
    """One move of a champion, as it stands in the journal."""

    number: int
    model: str
    action: Action
    before: int | None  # the version that was champion
    to: int
    time: str  # UTC, 2026-11-26T15:04:05Z
    text: str  # without the end of the line
    fields: Mapping[str, Any]  # all of it

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def mark(self) -> str:
        """Which line it is and what it says, for the model's tag."""
        return f"{self.number} {self.sha256}"


@dataclass(frozen=True)
class Journal:
    """All lines in order, and what is wrong with them, in words."""

    lines: list[Line]
    faults: list[str]
    highest: int  # number that was given out, be it to a void line

    def of(self, model: str) -> list[Line]:
        return [line for line in self.lines if line.model == model]

    def digest(self, model: str, number: int) -> str | None:
        """Of the build that was promoted as this version, if a line says so."""
        said = (
            line.fields.get("evidence") or {}
            for line in reversed(self.lines)
            if (line.model, line.to) == (model, number)
        )
        return next((evidence["digest"] for evidence in said if evidence.get("digest")), None)

    def last(self, model: str) -> Line | None:
        return next((line for line in reversed(self.lines) if line.model == model), None)


def path() -> Path:
    """The embedded store's journal."""
    return registry.beside() / "promotions.jsonl"


def where() -> str:
    return str(path()) if registry.database() else f"{registry.address()}, registered model {NAME}"


def read() -> Journal:
    """The journal as it is, checked; empty if nothing was ever promoted."""
    if registry.database() is None:
        given = [(entry.version, entry.tags.get(TAG)) for entry in registry.versions(NAME)]
        return _check([(number, text) for number, text in given if not _is_void(number, text)], given)
    if not path().exists():
        return Journal([], [], 0)
    *whole, torn = path().read_text("utf-8", errors="replace").split("\n")
    found = _check(list(enumerate(whole, 1)), [])
    if torn:
        words = f"line {len(whole) + 1} is cut off: it was being written when its writer died; the next move removes it"
        return Journal(found.lines, [*found.faults, words], found.highest)
    return found


def _is_void(number: int, text: str | None) -> bool:
    """Whether a version on the server is the line of a writer who claimed a number that another got first."""
    try:
        return text is not None and json.loads(text)["number"] != number
    except (ValueError, TypeError, KeyError):
        return False


def _check(entries: list[tuple[int, str | None]], given: list[tuple[int, str | None]]) -> Journal:
    """`entries`: where each line stands and its text; `given`: on a server all entries, void ones too."""
    lines: list[Line] = []
    faults: list[str] = []
    chained, sha256 = False, None  # of the line before
    for place, text in entries:
        line = _parse(place, text)
        if line is None:
            faults.append(f"line {place} cannot be read: it was changed")
            sha256 = hashlib.sha256((text or "").encode()).hexdigest()
            continue
        expected = lines[-1].number + 1 if lines else 1
        if "line_before_sha256" in line.fields:
            chained = True
            if not given and line.number != expected:
                faults.append(f"line {place} says that it is number {line.number}: lines were removed or reordered")
            if line.fields["line_before_sha256"] != sha256:
                faults.append(f"line {place} does not follow the line before it: that was changed, removed or moved")
        elif chained:
            faults.append(f"line {place} names no line before it, though earlier ones do: it was put there by hand")
        lines.append(line)
        sha256 = line.sha256
    numbers = {number for number, _ in given}
    highest = max([*numbers, *(line.number for line in lines), 0])
    if given and (missing := sorted(set(range(1, highest + 1)) - numbers)):
        faults.append(f"line {', '.join(map(str, missing))} is missing: it was removed")
    return Journal(lines, faults, highest)


def _parse(place: int, text: str | None) -> Line | None:
    try:
        fields = json.loads(text or "")
        return Line(
            number=int(fields.get("number", place)),
            model=str(fields["model"]),
            action=fields.get("action", "promote"),
            before=fields["from"],
            to=int(fields["to"]),
            time=str(fields["time"]),
            text=text or "",
            fields=fields,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, where the number has no name
        return f"uid {os.getuid()}"


def append(
    known: Journal, model: str, action: Action, before: int | None, to: int, reason: str, evidence: Mapping[str, Any]
) -> Line:
    """Add a line after `known`, the journal as just read; the caller holds the lock `champion`.

    Raises Raced if on the server another line came first; then nothing was added but a void entry.
    """
    number = known.highest + 1
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    fields = {
        "number": number,
        "time": max([now, *(line.time for line in known.lines[-1:])]),  # a clock that was set back makes no disorder
        "who": _user(),
        "host": socket.gethostname(),
        "model": model,
        "action": action,
        "from": before,
        "to": to,
        "reason": reason,
        "evidence": dict(evidence),
        "line_before_sha256": known.lines[-1].sha256 if known.lines else None,
    }
    text = json.dumps(fields)
    if registry.database() is None:
        from components import versions

        got = versions.journal(NAME, {TAG: text}, f"{model}: {action} {before} to {to}")
        # A request that was sent twice, as its answer was late, has a second number, which is void.
        if got != number and all(line.text != text for line in read().lines):
            raise Raced
    else:
        _write(text)
    line = _parse(number, text)
    assert line is not None  # noqa: S101 - it was just made
    return line


def _write(text: str) -> None:
    """One write at the end of the file, on disk when this returns; what a killed writer left there is cut off."""
    path().parent.mkdir(parents=True, exist_ok=True)
    try:
        with path().open("ab+") as file:
            file.seek(0)
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TemperError(f"{path()}: cannot be written: {error.strerror}; the champion was not moved") from None


def tampered(known: Journal, name: str, mark: str | None) -> list[str]:
    """The journal's faults, with what the mark of a model's last line shows."""
    if mark is None:
        return known.faults
    number = int(mark.partition(" ")[0])
    line = next((line for line in known.of(name) if line.number == number), None)
    if line is None:
        return [*known.faults, f"line {number}, the last of {name} that was carried out, is missing: it was removed"]
    if line.mark != mark:
        return [*known.faults, f"line {number}, the last of {name} that was carried out, was changed since"]
    return known.faults


def at(known: Journal, model: str, moment: str) -> Line | None:
    """The line that made the champion of that moment (UTC, as lines write it); None if there was none yet."""
    return next((line for line in reversed(known.of(model)) if line.time <= moment), None)
