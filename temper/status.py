"""`temper status`: which stages would run and why."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from components import params
from components.errors import TemperError
from flows import dvc
from flows.drive import FIRST, LAST
from temper import workspace

SHOWN = 4  # reasons a stage


def status() -> None:
    """Print stale stages in order, each with what changed or what it follows from."""
    params.load()
    console = workspace.console()
    try:
        plan = dvc.plan()
    except dvc.Busy as error:
        raise TemperError(f"a run is at work here ({error}); ask again when it is done") from None
    stale = {name: parents for name, parents in plan.stale(apart=FIRST).items() if name != LAST}
    if not stale:
        console.print(f"All {len(plan.parents)} stages are up to date, as last observed.")
    else:
        table = Table("stage", "why it is stale", box=None, padding=(0, 2), header_style="dim")
        for name, parents in stale.items():
            why = plan.changes.get(name, [])
            lines = [*why[:SHOWN], *([f"and {len(why) - SHOWN} more"] if len(why) > SHOWN else [])]
            if not lines:
                lines = [f"follows from {', '.join(parents)}"]
            table.add_row(name, Text("\n".join(lines), style="" if why else "dim"))
        console.print(table)
        console.print(f"{len(stale)} of {len(plan.parents)} stages are stale; `{workspace.command('run')}` runs them.")
    console.print(
        Text(f"{FIRST} and {LAST} run every time: source, machine and registry are looked at then.", style="dim")
    )
