"""Moves a champion: compare-and-swap on the journal, then the aliases, which follow it.

The journal's line is the move; aliases are made to be what it says. So a kill leaves either no line, and nothing has
happened, or a line that the next call carries out (`finish`). Aliases: `champion`; `previous`, where a rollback
would go, and never the champion itself; `challenger`, what was registered and proved, until it is the champion.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components import journal, registry, tracking, versions
from components.errors import TemperError
from components.journal import Action, Journal, Line

log = logging.getLogger("temper")

ATTEMPTS = 10  # writers on a server that may be first, one after the other


@dataclass(frozen=True)
class Standing:
    """What the journal says of a model."""

    stack: tuple[int, ...] = ()  # champions that rollbacks go back along; the last is that of now
    out: frozenset[int] = frozenset()  # versions that were rolled back and not brought back by a person

    @property
    def champion(self) -> int | None:
        return self.stack[-1] if self.stack else None

    @property
    def earlier(self) -> list[int]:
        """Where a rollback may go, the nearest first."""
        found = [number for number in reversed(self.stack) if number != self.champion and number not in self.out]
        return list(dict.fromkeys(found))


def after(standing: Standing, action: Action, before: int | None, to: int) -> Standing:
    """A promotion puts a version on the stack; going back takes off what lies above it, and what is left stays out.

    Who brings back what had been rolled back says that this was right, and nothing against what it replaces.
    """
    stack, out = standing.stack, standing.out
    back = action == "rollback" or (action == "found" and before is not None and to < before)
    if back and to in stack:
        stack = stack[: len(stack) - stack[::-1].index(to)]
    elif standing.champion != to:
        stack = (*stack, to)
    left = {before} if back and before is not None and to not in out else set()
    return Standing(stack, (out | left) - {to})


def standing(known: Journal, name: str) -> Standing:
    found = Standing()
    for line in known.of(name):
        found = after(found, line.action, line.before, line.to)
    return found


def pending(known: Journal, found: registry.Registered, name: str) -> Line | None:
    """The last line, if its aliases were not all moved: its writer was killed. A line without a hash came last.

    One whose version is not there any more (model or database were made anew) can never be carried out.
    """
    line, mark = known.last(name), found.journalled
    if line is None or "line_before_sha256" not in line.fields or line.mark == mark:
        return None
    if mark is not None and line.number <= int(mark.partition(" ")[0]):
        return None
    return line if version(known, name, line.to) else None


def version(known: Journal, name: str, number: int) -> registry.Version | None:
    """The version that the journal means: in a model that was made anew another may have its number."""
    found, digest = registry.version(name, number), known.digest(name, number)
    return found if found is None or digest in (None, found.digest) else None


def now(known: Journal, found: registry.Registered, name: str) -> Standing:
    """As `standing`, but after what somebody did to the alias without Temper."""
    said, alias = standing(known, name), found.aliases.get("champion")
    if alias is None or alias == said.champion or pending(known, found, name):
        return said
    return after(said, "found", said.champion, alias)


def current(name: str) -> registry.Version | None:
    """The champion, or what is it as soon as a promotion that was killed is finished."""
    line = pending(journal.read(), registry.registered(name), name)
    return registry.version(name, line.to) if line else registry.champion(name)


def gone(name: str) -> list[registry.Version]:
    """Versions that were rolled back, were not brought back by a person, and are still there."""
    known = journal.read()
    numbers = sorted(now(known, registry.registered(name), name).out)
    return [one for number in numbers if (one := version(known, name, number))]


def out(name: str) -> list[str]:
    """Digests of the builds that were rolled back and must not win again by themselves, deleted versions' too."""
    known = journal.read()
    numbers = now(known, registry.registered(name), name).out
    digests = {known.digest(name, number) or _digest(name, number) for number in numbers}
    return sorted(digest for digest in digests if digest)


def _digest(name: str, number: int) -> str | None:
    found = registry.version(name, number)
    return found.digest if found else None


def finish(name: str) -> str | None:
    """Carry out the journal's last line if its writer was killed before it could; returns what was done."""
    if not pending(journal.read(), registry.registered(name), name):
        return None
    with tracking.lock("champion"):
        if not (line := pending(journal.read(), registry.registered(name), name)):
            return None
        _carry_out(name)
    return f"finished what was begun at {line.time}: version {line.to} of {name} is the champion"


def champion(name: str, to: int, base: int | None, action: Action, reason: str, evidence: Mapping[str, Any]) -> Line:
    """Make a version the champion if `base` still is it. Raises TemperError if something else is."""
    finish(name)
    with tracking.lock("champion"):
        for attempt in range(ATTEMPTS):
            known, found = journal.read(), registry.registered(name)
            if line := pending(known, found, name):  # on a server: of another machine, at work or killed
                _carry_out(name)
                found = registry.registered(name)
            current = found.aliases.get("champion")  # none too if somebody deleted it, or its version
            if current != base:
                raise stale(name, current, base)
            for fault in journal.tampered(known, name, found.journalled) if attempt == 0 else ():
                log.warning("the journal of promotions is broken: %s (%s)", fault, journal.where())
            try:
                said = standing(known, name).champion
                if current is not None and said != current:
                    words = "the alias was moved without Temper" if said else "there was no journal yet"
                    journal.append(known, name, "found", said, current, words, {})
                    known = journal.read()
                line = journal.append(known, name, action, base, to, reason, evidence)
            except journal.Raced:
                continue
            _carry_out(name)
            return line
    raise TemperError(f"{name}: {ATTEMPTS} others journalled first; try again")


def stale(name: str, current: int | None, base: int | None) -> TemperError:
    return TemperError(
        f"the champion of {name} is {called(current)}, but this was decided against {called(base)}: that base is "
        f"stale, something else was promoted meanwhile; run the pipeline again to compare with it"
    )


def called(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def _carry_out(name: str) -> None:
    """Make the aliases what the journal says. On a server others write too: then until the last line is that."""
    for attempt in range(ATTEMPTS):
        known = journal.read()
        line, said = known.last(name), standing(known, name)
        if line is None or said.champion is None:
            return
        previous = next((number for number in said.earlier if version(known, name, number)), None)
        try:
            versions.set_aliases(name, said.champion, previous, line.mark)
        except TemperError:
            # Two machines that carry out one line may insert the same alias at once: the server refuses the second.
            if registry.database() or attempt == ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - that they part
            continue
        if registry.database() or journal.read().last(name) == line:
            return
