"""The command line: `temper --help`. Each command imports what it needs when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from temper import preset as presets
from temper import registered
from temper.workspace import Preset, console, enter, inside, main_checkout, reported

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Retrain, compress in every way that may pay, prove which build is no worse and how much faster, "
        "promote it.\n\n"
        "Everything is set in [bold]params.yaml[/bold]. A first session:\n\n"
        "  [cyan]temper doctor[/cyan]   what this machine can do\n\n"
        "  [cyan]temper run[/cyan]      run what is stale; the second time says so in seconds\n\n"
        "  [cyan]temper matrix[/cyan]   every variant x target: accuracy, size, latency, verdict\n\n"
        "  [cyan]temper history[/cyan]  what was champion when, and why; [cyan]temper rollback[/cyan] goes back\n\n"
        "  [cyan]temper preset[/cyan]   other data sets and models, beside this one\n\n"
        "  [cyan]temper ui[/cyan]       the tracked runs in MLflow\n\n"
        "  [cyan]temper up[/cyan]       retrain on schedule\n\n"
        "Then edit params.yaml (say, variants.pruned.ratio), see what that touches with [cyan]temper status[/cyan], "
        "and run again.\n\n"
        "Exit codes: 0 done, 1 failed, 2 params or usage, 3 data refused, 4 training cannot go on, 5 not bit-equal, "
        "130 or 143 stopped."
    ),
)


@app.command(rich_help_panel="Pipeline")
def run(
    stage_timeout_s: Annotated[
        float, typer.Option(min=1, help="A stage that takes longer is ended and counts as failed.")
    ] = 43_200,
    preset: Preset = None,
) -> None:
    """Run every stale stage, independent ones at once, and promote what the policy chooses.

    A stage that fails costs only what builds on it: the others go on, and the next run does just the rest.
    `dvc repro` gives the same result, one stage after the other and without Prefect.

    PREFECT_API_URL names a standing Prefect server, MLFLOW_TRACKING_URI a tracking server; without them
    both are local to this folder. A run that finds nothing stale is no flow run. Logs: .temper/logs/<run>/<stage>.log
    """
    with reported():
        enter(preset)
        from temper.run import run as command

        code = command(stage_timeout_s)
    raise typer.Exit(code)


@app.command(rich_help_panel="Pipeline")
def status(preset: Preset = None) -> None:
    """Which stages are stale and why: changed code, params, data or outputs, and what follows from them.

    Looks only at this folder, as last observed; `temper run` looks outside first (source, machine, registry).
    """
    with reported():
        enter(preset)
        from temper.status import status as command

        command()


@app.command(rich_help_panel="Pipeline")
def matrix(
    against: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="A registered version (3), an alias (champion) or a git revision (HEAD~1)."),
    ] = None,
    preset: Preset = None,
) -> None:
    """The last matrix: every cell with accuracy, verdict, size, latency and speed-up, and what was chosen.

    With --against, what changed since: each cell then and now, and loudly what cannot be compared.
    """
    with reported(), inside(preset, fresh=False):
        from temper import matrix as command

        if against is None:
            command.show(console())
        else:
            command.against(console(), against)


@app.command(rich_help_panel="Pipeline")
def promote(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Promote what a rollback keeps out, too.")] = False,
    preset: Preset = None,
) -> None:
    """Apply the last decision: register its winner and make it the champion. Safe to repeat.

    `temper run` and `dvc repro` end with the same step.
    """
    with reported(), inside(preset, fresh=False):
        from temper.promote import promote as command

        command(dry_run, again)


app.add_typer(presets.app, name="preset", rich_help_panel="Pipeline")
app.add_typer(registered.app)


@app.command(rich_help_panel="Pipeline")
def lr_find(
    variant: Annotated[str | None, typer.Argument(help="A variant of params.yaml; left out, the first.")] = None,
    lowest: Annotated[float, typer.Option(min=1e-6, max=1.0, help="The rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(min=1e-6, max=1.0, help="The rate of the last step.")] = 1.0,
    steps: Annotated[int, typer.Option(min=50, max=100_000, help="More: slower, and less noise.")] = 300,
    preset: Preset = None,
) -> None:
    """Find a learning rate: train the variant from its parent for a few steps while the rate rises, watch the loss.

    Suggests the rate at which the loss falls fastest, and prints where to put it in params.yaml. It tries the pass as
    params.yaml has it (data, batch size, optimizer, loss), but for its schedule; what it trained is thrown away, and
    nothing in work/ changes. It ends when the loss is four times the best, so most runs take fewer steps.

    The curve: .temper/lr-find/<variant>.png and .csv
    """
    with reported(), inside(preset):
        from temper.lr_find import lr_find as command

        command(variant, lowest, highest, steps)


@app.command(rich_help_panel="Pipeline")
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on what was tracked: runs, curves, cells side by side, registered models. Ctrl-C ends it.

    Several cells compare with one click: they carry the same metric keys.
    """
    with reported():
        enter()
        from temper.ui import ui as command

        code = command(port)
    raise typer.Exit(code)


PortGiven = Annotated[int | None, typer.Option(min=1, max=65535, help="Left out: as last time, or a free one.")]


@app.command(rich_help_panel="Schedule")
def up(
    prefect_port: PortGiven = None,
    mlflow_port: PortGiven = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all of it is ready.")] = False,
) -> None:
    """Retrain on schedule: start a Prefect server, an MLflow server and the runner, and keep them up. Ctrl-C ends all.

    What is due when is in the section schedule of params.yaml and of each preset, such as
    [cyan]schedule: {cron: "0 3 * * *", timezone: Europe/Berlin}[/cyan]; Prefect's pages also start a run by hand.
    All listens on 127.0.0.1 only. [cyan]temper run[/cyan] uses these servers while they are up.

    PREFECT_SERVER_DATABASE_CONNECTION_URL: Prefect keeps its runs in that PostgreSQL instead of SQLite;
    MLFLOW_BACKEND_STORE_URI: MLflow does. Logs: .temper/logs/up
    """
    with reported():
        root = main_checkout()
        from temper.up import up as command

        command(root, prefect_port, mlflow_port, detach)


@app.command(rich_help_panel="Schedule")
def down() -> None:
    """End what `temper up` started, in under ten seconds; a run at work is stopped."""
    with reported():
        root = main_checkout()
        from temper.up import down as command

        command(root)


@app.command(rich_help_panel="Machine")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how much would go, and remove nothing.")] = False,
) -> None:
    """Free disk: remove old results from DVC's cache, but for what this checkout, its presets and every version need.

    `dvc gc` would also remove the data that `temper reproduce` makes registered versions from: it knows branches and
    tags, not the commits that versions name. What a version needs goes once you have deleted the version in MLflow.
    """
    with reported():
        root = main_checkout()
        from temper.gc import gc as command

        command(root, dry_run)


@app.command(rich_help_panel="Machine")
def doctor(
    invariants: Annotated[
        bool, typer.Option("--invariants", help="What must hold here at any time, instead; only looks.")
    ] = False,
) -> None:
    """What this machine can and cannot do, each with its remedy. Exit code 1 if something needed is missing.

    With --invariants: every alias names a version whose files are as they were registered, the journal agrees with the
    champion, dvc.lock with outputs and cache, no run claims to be at work whose process is gone, and nothing of ours
    is left: process, temporary file or lock. Exit code 1 if one does not hold.
    """
    with reported():
        if invariants:
            from temper.invariants import invariants as command
        else:
            from temper.doctor import doctor as command

        code = command()
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
