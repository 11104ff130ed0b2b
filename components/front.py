"""The Pareto front over accuracy, latency at the policy's batch size, and size of the file that ships.

Accuracy is of the same test rows and size is exact, so both compare as they are. Medians of latency do not: latency
compares by tier, which is made of the paired verdicts. The first tier is the cells that none is surely faster than,
the next those that none is once the first is taken out, and so on, as `decide` lets cells tie. So a cell is never
pushed off the front by one that it is surely faster than, and what cannot be told apart counts as equally fast.

A cell dominates another if it is at least as accurate, at least as small and in the same or a faster tier, and better
in one of these. That is a strict partial order whatever the verdicts are (paired verdicts may run in a circle), so no
cell on the front is dominated, and every cell off it is dominated by one on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def measured(row: Row, size: str) -> bool:
    """Whether a cell has all that the front compares; one that failed when it was timed may have figures too."""
    return row["status"] == "ok" and None not in (row["accuracy"], row["size_mb"], row["latency_ms"].get(size))


def tiers(rows: Sequence[Row], size: str) -> dict[str, int]:
    """Cell to its tier by latency, 0 the fastest. `rows` are measured; `beaten_by` names who is surely faster."""
    left = {row["cell"]: row for row in rows}
    tier: dict[str, int] = {}
    number = 0
    while left:
        unbeaten = [cell for cell, row in left.items() if left.keys().isdisjoint(row["beaten_by"])]
        # Who wins most rounds may run in a circle, as in votes: the least median then goes first, alone.
        of_tier = unbeaten or [min(left, key=lambda cell: (left[cell]["latency_ms"][size], cell))]
        for cell in of_tier:
            tier[cell] = number
            del left[cell]
        number += 1
    return tier


def dominated_by(rows: Sequence[Row], batch_size: int) -> dict[str, list[str] | None]:
    """Cell to the cells of the front that dominate it: empty on the front, None where it was not measured."""
    size = str(batch_size)
    known = [row for row in rows if measured(row, size)]
    tier = tiers(known, size)
    # All three as "less is better".
    costs = {row["cell"]: (-row["accuracy"], row["size_mb"], tier[row["cell"]]) for row in known}

    def dominates(one: str, other: str) -> bool:
        pairs = list(zip(costs[one], costs[other], strict=True))
        return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)

    best = [cell for cell in costs if not any(dominates(other, cell) for other in costs)]
    return {
        row["cell"]: [other for other in best if dominates(other, row["cell"])] if row["cell"] in costs else None
        for row in rows
    }
