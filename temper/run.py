"""`temper run`: check params, drive, and tell what came of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from components import params, registry
from components.errors import TemperError
from flows import snapshot
from flows.drive import Stopped, drive, durations, slots
from flows.outcome import Outcome
from temper import matrix, workspace
from temper.progress import Progress, clock

TRY = ("dvc exp run -S variants.pruned.ratio=0.6", "try a value without touching the champion; then `dvc exp show`")


def run(stage_timeout_s: float) -> int:
    """Returns the exit code; raises ParamsError before any work."""
    checked = params.load()
    console = workspace.console()
    try:
        with Progress(console, durations(), slots(checked.threads)) as progress:
            limits = checked.limits.model_dump() if checked.limits else None
            outcome = drive(progress, checked.threads, stage_timeout_s, limits=limits)
    except Stopped as stopped:
        console.print(
            Text(f"stopped by {stopped}: running stages were ended; `{workspace.command('run')}` goes on", "yellow")
        )
        return 128 + stopped.signal
    _tell(console, outcome, checked.name)
    return outcome.exit_code


def _tell(console: Console, outcome: Outcome, name: str) -> None:
    ran = [stage for stage, (how, _) in outcome.done.items() if how != "unchanged" and stage in outcome.stale]
    work = [stage for stage in ran if stage != "promote"]
    if not work and not outcome.exit_code:
        console.print(
            f"Nothing to do: all {len(outcome.order)} stages are up to date ({outcome.seconds:.1f} s). "
            f"`{workspace.command('matrix')}` shows the result.",
            soft_wrap=True,
        )
        _champion(console, name, outcome)
        return
    if matrix.MATRIX.exists() and not {"compare", "decide"} & {*outcome.skipped, *outcome.failed} and work:
        console.print()
        matrix.show(console)
    for stage, failure in outcome.failed.items():
        console.print(Text(f"\n{stage} failed:", style="bold red"))
        console.print(Text(failure.reason), soft_wrap=True)
    if outcome.skipped:
        console.print(Text(f"\nnot run, because of that: {', '.join(outcome.skipped)}", style="red"), soft_wrap=True)
    if outcome.untracked:
        console.print(Text(f"\nthe run is not in MLflow: {outcome.untracked}", style="bold red"), soft_wrap=True)
    _champion(console, name, outcome)
    _next(console, outcome)


def _champion(console: Console, name: str, outcome: Outcome) -> None:
    if outcome.promotion:
        console.print(Text.assemble(("promote: ", "bold"), outcome.promotion), soft_wrap=True)
    try:
        version = registry.champion(name)
    except TemperError as error:
        console.print(Text(f"champion: unknown: {error}", style="yellow"), soft_wrap=True)
        return
    if version is None:
        console.print(f"champion: none is registered as {name} yet")
        return
    what = version.tags.get("cell", "")
    console.print(
        Text.assemble(("champion: ", "bold"), (f"{name} version {version.version}", "bold green"), f"  {what}")
    )


def _next(console: Console, outcome: Outcome) -> None:
    took = clock(outcome.seconds)
    if outcome.exit_code:
        advice = (
            f"red after {took}. `{workspace.command('run')}` does again what failed and what follows; "
            f"logs: .temper/logs/{outcome.run}"
        )
        console.print(Text(advice, style="red"), soft_wrap=True)
        return
    console.print(f"\nDone in {took}. What next:")
    preset = snapshot.standing(Path.cwd())
    edit = (
        f"edit {f'presets/{preset}.yaml' if preset else 'params.yaml'}",
        f"say a variant; `{workspace.command('status')}` shows what that touches, `{workspace.command('run')}` does it",
    )
    for command, what in (
        ("temper ui", "compare runs, curves and cells in MLflow"),
        (workspace.command("matrix"), "this table again"),
        edit,
        *([] if preset else [TRY]),
    ):
        console.print(Text.assemble("  ", (command, "cyan"), f"  {what}"), soft_wrap=True)
