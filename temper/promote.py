"""`temper promote`: the step that ends every run, by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from components import gates as gates_of
from components import params
from components.errors import TemperError
from flows import dvc
from flows.drive import FIRST, LAST, keep
from flows.dvc import driver_lock
from temper import matrix, workspace


def _age() -> str | None:
    """Whether the decision is of code, params or data that have changed since, in words."""
    stale = dvc.patiently(dvc.plan).stale(apart=FIRST).keys() - {LAST}
    if not stale:
        return None
    return (
        f"the decision is older than code, params or data here ({len(stale)} stages are stale); "
        f"`{workspace.command('run')}` decides and promotes anew"
    )


def promote(dry_run: bool, again: bool) -> None:
    """Apply the last decision. Raises TemperError if there is none or the champion is not what it was made against."""
    from components import promote as stage
    from components import tracking

    name = params.load().name
    decision = matrix.read_decision()
    if decision is None:
        raise TemperError(f"there is no decision yet; `{workspace.command('run')}` makes it")
    work, console = Path("work"), Console()
    with driver_lock():  # a run would replace under our hands what is being registered
        # `temper status --preset` brings a worktree to the params of now; a version must name those it was made with.
        old = _age()
        if old and not dry_run:
            raise TemperError(old)
        if not dry_run:
            os.environ |= keep(lambda text: console.print(Text(text, style="yellow"), soft_wrap=True))
        said = tracking.patiently(
            lambda: stage.apply(
                name,
                decision,
                work / "builds",
                work / "engines",
                work / "predictions",
                work / "matrix",
                work / "data/prepared",
                dry_run=dry_run,
                again=again,
                by_hand=True,
            )
        )
    if dry_run:
        explain(decision)
    if old:
        console.print(Text(f"Beware: {old}", style="yellow"), soft_wrap=True)
    Console().print(Text(said), soft_wrap=True)


def explain(decision: Mapping[str, Any]) -> None:
    """Each gate of each cell, what was found and whether it passed; then what no gate asks, and the decision."""
    console = Console()
    chosen = (decision.get("winner") or {}).get("cell")
    for cell, judged in decision["cells"].items():
        mark, style = ("may be promoted", "green") if judged["feasible"] else ("may not", "yellow")
        star = " ★ chosen" if cell == chosen else ""
        console.print(Text.assemble((cell, "bold"), ": ", (mark, style), (star, "bold green")))
        gates = judged.get("gates", [])
        for gate in gates:
            told = ("✓", "green") if gate["passed"] else ("✗", "red")
            rule = gate["rule"].removeprefix("policy.")
            console.print(Text.assemble("  ", told, f" {rule:<22} ", (gate["words"], "dim")), soft_wrap=True)
        for reason in judged["reasons"][len(gates) :]:
            console.print(Text(f"    {reason}", style="dim"), soft_wrap=True)
    if "policy" in decision and (open_gates := gates_of.unasked(decision["policy"])):
        console.print(Text(f"not asked (null in params.yaml): {', '.join(open_gates)}", style="dim"), soft_wrap=True)
    champion = decision["champion"]
    if champion.get("version") is not None:
        console.print(f"champion: version {champion['version']}, asked the same test rows", highlight=False)
    console.print(Text(f"decision: {decision['reason']}"), soft_wrap=True)
