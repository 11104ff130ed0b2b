"""Why the champion stays, though a decision names a winner: it is that very build, or a rollback speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import move, record, registry
from components.hashing import sha256_tree


def nothing_to_do(name: str, winner: Mapping[str, Any], data: Path, again: bool) -> str | None:
    """The words for it, or None; `again`: a person wants the winner even if a rollback speaks against it.

    `data`: the folder that the winner was made from.
    """
    current = registry.champion(name)
    if current and current.digest == winner["digest"]:
        return f"nothing to do: {winner['cell']} is version {current.version} of {name}, the champion"
    stays = f"the champion is {move.called(current.version if current else None)}"
    if again:
        return None
    if winner["digest"] in move.out(name):
        known = registry.with_digest(name, winner["digest"])
        which = f"is {move.called(known.version)} of {name}" if known else f"was a version of {name}, deleted since"
        return (
            f"nothing to do: {winner['cell']} {which}, which was rolled back; {stays}; "
            f"`temper promote --again` brings it back"
        )
    if current and (held := _held(name, data)) is not None:
        return (
            f"nothing to do: version {held} of {name}, which was rolled back, was made of the very same data and "
            f"params, so {winner['cell']} does not take its place by itself; {stays}. Other data or params decide "
            f"anew; `temper promote --again` promotes {winner['cell']}"
        )
    return None


def _held(name: str, data: Path) -> int | None:
    """The version that was rolled back and is of the data and params of now, if there is one.

    Without this the next run would undo a rollback: it would promote the next best build of the same run.
    """
    if not (gone := move.gone(name)):
        return None
    provenance = record.Provenance.read(record.ROOT / record.pipeline_run()) or record.Provenance.now(Path.cwd())
    values = "params.values.sha256"  # a comment is no reason to undo a rollback
    made = {"data.sha256": sha256_tree(data), values: provenance.tags[values]}
    return next((one.version for one in gone if all(one.tags.get(key) == made[key] for key in made)), None)
