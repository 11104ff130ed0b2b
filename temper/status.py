"""`temper status`: which stages would run and why; what `temper up` runs, and what is due when."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components import params, registry
from components.errors import TemperError
from flows import agenda, dvc, schedules
from flows import group as groups
from flows.drive import FIRST, LAST
from temper import workspace

SHOWN = 4  # reasons a stage


def _servers(console: Console) -> None:
    """The group of `temper up`, if it is up: its addresses, its schedules, their last runs."""
    group = groups.up(registry.root())
    if group is None:
        console.print(Text("no schedule runs: `temper up` is down", style="dim"))
        return
    since = time.strftime("%F %T", time.localtime(group.since))
    console.print(f"`temper up` runs since {since} (pid {group.pid}): Prefect {group.prefect}, MLflow {group.mlflow}")
    try:
        entries = agenda.entries(f"{group.prefect}/api", group.password)
        missing = agenda.missing_blocks(f"{group.prefect}/api", group.password, schedules.planned(registry.root()))
    except TemperError as error:
        console.print(Text(f"{error} (logs: .temper/logs/up)", style="yellow"))
        return
    table = Table("retrains", "schedule", "next, UTC", "last, UTC", "how it ended", box=None, padding=(0, 2))
    for entry in entries:
        last = Text(": ".join(filter(None, (entry.state, entry.message.partition("\n")[0]))), overflow="ellipsis")
        table.add_row(entry.name, entry.schedule or "by hand", entry.due, entry.last, last)
    console.print(table)
    for line in missing:
        console.print(Text(line, style="yellow"), soft_wrap=True)


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
    _servers(console)
    console.print(
        Text(f"{FIRST} and {LAST} run every time: source, machine and registry are looked at then.", style="dim")
    )
