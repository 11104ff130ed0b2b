"""Back to an earlier champion, after proving that it loads; and what is wrong with champion and journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components import journal, move, registry, runtime, smoke
from components.errors import ParamsError, TemperError


def back(name: str, to: int | None, reason: str) -> str:
    """Make an earlier champion the champion again: `to`, or the one before along the journal; returns what was done.

    Needs neither data nor decision. Raises TemperError if there is none or it does not answer; then nothing moved.
    """
    if not (reason := " ".join(reason.split())):
        raise ParamsError(["--reason: must say why, got nothing; it is what `temper history` shows"])
    move.finish(name)
    known, found = journal.read(), registry.registered(name)
    current, said = found.aliases.get("champion"), move.now(known, found, name)
    choices = said.earlier if current is not None else [n for n in (said.champion, *said.earlier) if n is not None]
    if (earlier := found.aliases.get("previous")) and not known.of(name):
        choices = [earlier]  # a store from before the journal
    if to is None:
        to = next((number for number in choices if move.version(known, name, number)), None)
        if to is None:
            raise TemperError(f"{name} has no earlier champion to go back to; `temper history` shows what there was")
    elif to == current:
        raise TemperError(f"version {to} of {name} is the champion already; nothing to roll back")
    elif to not in (were := {number for line in known.of(name) for number in (line.before, line.to)} | {*choices}):
        told = ", ".join(str(number) for number in sorted(n for n in were if n)) or "none"
        raise TemperError(f"version {to} of {name} never was the champion ({told} were); `temper promote` decides anew")
    lines = [line.fields.get("evidence", {}) for line in known.of(name) if line.to == to]
    package = next((found["package_sha256"] for found in reversed(lines) if found.get("package_sha256")), None)
    try:
        proof = smoke.earlier(name, to, package)
    except TemperError as error:
        others = ", ".join(f"`temper rollback {number} --reason ...`" for number in choices if number != to)
        raise TemperError(
            f"version {to} of {name} cannot take over: {error}; {move.called(current)} stays the champion"
            + (f"; other ways back: {others}" if others else "")
        ) from None
    version = registry.version(name, to)
    tags = version.tags if version else {}
    asked = "the rows kept with it" if proof.difference is not None else "its input example"
    evidence: dict[str, Any] = {key: tags.get(key) for key in ("cell", "digest", "pipeline_run")}
    evidence |= {"package_sha256": proof.package_sha256, "smoke": f"passed: {proof.rows} rows, {asked}"}
    move.champion(name, to, current, "rollback", reason, evidence)
    stays = (
        ""
        if current is None
        else f"; version {current} stays out, and nothing else that was made of its data and params takes its place by "
        f"itself, until `temper promote --again` or `temper rollback {current} --reason ...`"
    )
    return (
        f"version {to} of {name} ({tags.get('cell', 'cell unknown')}) is the champion again, before it "
        f"{move.called(current)}; it answered {asked} first{stays}"
    )


def troubles(name: str) -> Iterator[tuple[str, str]]:
    """(what is wrong with journal, aliases or the files behind them, what to do)"""
    yield from disagreements(name)
    found = registry.registered(name)
    if move.pending(journal.read(), found, name):
        return
    for role in ("champion", "previous"):
        if role in found.aliases and (damage := _broken(name, found.aliases[role])):
            remedy = (
                "roll back to a version that is whole" if role == "champion" else "a rollback to it will be refused"
            )
            yield f"{role}, version {found.aliases[role]}: {damage}", remedy


def disagreements(name: str) -> Iterator[tuple[str, str]]:
    """(where the journal is broken, or the champion is not as it says, what to do)"""
    known, found = journal.read(), registry.registered(name)
    for fault in journal.tampered(known, name, found.journalled):
        yield f"the journal is broken: {fault}", f"compare {journal.where()} with a copy of it; moves go on after it"
    if line := move.pending(known, found, name):
        words = f"the move to version {line.to}, begun at {line.time}, was not carried out"
        yield words, "`temper promote` or `temper rollback` finishes it first"
        return
    alias, said = found.aliases.get("champion"), move.standing(known, name).champion
    if alias != said and said is not None:
        gone = registry.version(name, said) is None
        if alias is None:
            what = f"version {said}, the champion, was deleted" if gone else f"the alias of version {said} was deleted"
            back_to, does = ("", "goes to the one before") if gone else (f" {said}", "brings it back")
            yield f"there is no champion: {what} without Temper", f"`temper rollback{back_to} --reason ...` {does}"
        else:
            words = f"the champion is version {alias}, by the journal version {said}: it was moved without Temper"
            yield words, "the next promotion or rollback journals it as found"


def _broken(name: str, number: int) -> str | None:
    """What is wrong with the files of a version if they are on this machine."""
    version = registry.version(name, number)
    if version is None or (folder := registry.files(version.source)) is None:
        return None
    try:
        digest = runtime.digest(folder / "artifacts")
    except (OSError, TemperError) as error:
        return f"its files cannot be read: {error}"
    return None if digest == version.digest else f"its files were changed: their digest is {digest[:12]}"
