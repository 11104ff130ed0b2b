"""The command line: `temper --help`. Each command imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper import preset as presets
from temper.workspace import console, enter, main_checkout, reported

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

app.add_typer(presets.app, name="preset")
Preset = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of presets/NAME.yaml, in its own worktree; see temper preset.")
]


@app.command()
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


@app.command()
def status(preset: Preset = None) -> None:
    """Which stages are stale and why: changed code, params, data or outputs, and what follows from them.

    Looks only at this folder, as last observed; `temper run` looks outside first (source, machine, registry).
    """
    with reported():
        enter(preset)
        from temper.status import status as command

        command()


@app.command()
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
    with reported():
        enter(preset, fresh=False)
        from temper import matrix as command

        if against is None:
            command.show(console())
        else:
            command.against(console(), against)


@app.command()
def promote(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Promote even what was rolled back.")] = False,
    preset: Preset = None,
) -> None:
    """Apply the last decision: register its winner and make it the champion. Safe to repeat.

    `temper run` and `dvc repro` end with the same step.
    """
    with reported():
        enter(preset, fresh=False)
        from temper.promote import promote as command

        command(dry_run, again)


Version = Annotated[str, typer.Argument(help="A registered version (3) or an alias.")]


@app.command()
def verify(version: Version = "champion", preset: Preset = None) -> None:
    """Whether a registered version is as it was registered: every file's hash, nothing foreign in it, its signature.

    TEMPER_VERIFY_KEY names the public key that it must be signed with; without one the registry's hashes count.
    """
    with reported():
        enter(preset, fresh=False)
        from temper.verify import verify as command

        command(version)


@app.command()
def sign(version: Version = "champion", preset: Preset = None) -> None:
    """Sign a version that was registered without a key, or with an older one, after checking that it is whole.

    New versions are signed by themselves where TEMPER_SIGNING_KEY names a private key.
    """
    with reported():
        enter(preset, fresh=False)
        from temper.verify import sign as command

        command(version)


@app.command()
def key(
    path: Annotated[Path, typer.Argument(help="Of the private key; the public one goes beside it, with .pub.")],
) -> None:
    """Make a pair of keys to sign versions with: elliptic, P-256; nothing is written over, nothing goes online."""
    with reported():
        from temper.key import key as command

        command(path)


@app.command()
def rollback(
    version: Annotated[
        int | None, typer.Argument(min=1, help="Left out: the champion before, along the journal.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; the journal keeps it.")] = "",
    preset: Preset = None,
) -> None:
    """Make an earlier champion the champion again, after proving that it loads and answers as it did.

    Needs no data and no run. A second rollback goes one champion further back. What was rolled back stays out, however
    good its figures, until `temper promote --again` or a rollback to it.
    """
    with reported():
        enter(preset, fresh=False)
        from temper.rollback import rollback as command

        command(version, reason)


@app.command()
def history(
    as_json: Annotated[
        bool, typer.Option("--json", help="The journal's lines as they stand, of all models, oldest first.")
    ] = False,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="What was champion then: 2026-11-01T12:00, UTC.")
    ] = None,
    preset: Preset = None,
) -> None:
    """Every move of the champion, newest first: when, what, from, to, who, why.

    Exit code 1 if the journal is broken, or the aliases are not as it says. Each line holds the sha256 of the line
    before it, so a line that was changed, removed or moved shows.
    """
    with reported():
        enter(preset, fresh=False)
        from temper.history import history as command

        command(as_json, at)


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="A number, or an alias: champion, previous, challenger.")] = "champion",
    preset: Preset = None,
) -> None:
    """All that is known of a registered version: what it is now, what was measured, what made it, its promotions."""
    with reported():
        enter(preset, fresh=False)
        from temper.show import show as command

        command(version)


@app.command()
def reproduce(
    version: Annotated[str, typer.Argument(help="A registered version (3) or an alias (champion).")],
    keep: Annotated[bool, typer.Option("--keep", help="Leave the clone, to look at it.")] = False,
    stage_timeout_s: Annotated[float, typer.Option(min=1, help="A stage that takes longer is ended.")] = 43_200,
    preset: Preset = None,
) -> None:
    """Make a registered version again in a clean clone, and say whether it is bit-equal or how far it is off.

    The commit that the version names is cloned, its data are brought by their hash from DVC's cache or a remote, and
    every stage that its cell needs is computed anew: no result is taken from a cache, nothing is registered. A call
    that was stopped is gone on with by the next. A clone that differs stays: .temper/reproduce/<name>-<version>

    Exit codes: 0 bit-equal, 5 differs, 1 it cannot be made again; else those of the stage that failed.
    """
    with reported():
        enter(preset, fresh=False)
        from temper.reproduce import reproduce as command

        code = command(version, keep, stage_timeout_s)
    raise typer.Exit(code)


@app.command()
def lineage(
    version: Annotated[str, typer.Argument(help="A registered version (3) or an alias (champion).")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page instead, in one file.")] = None,
    preset: Preset = None,
) -> None:
    """What a version is from: source, data, variants, build, matrix row, and its promotions; with hashes and commits.

    What can no longer be known (a commit or a cached object that is gone) is said below the tree.
    """
    with reported():
        page = html.absolute() if html else None  # as seen from where the command was typed
        enter(preset, fresh=False)
        from temper.lineage import lineage as command

        command(version, page)


@app.command()
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
    with reported():
        enter(preset)
        from temper.lr_find import lr_find as command

        command(variant, lowest, highest, steps)


@app.command()
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


@app.command()
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


@app.command()
def down() -> None:
    """End what `temper up` started, in under ten seconds; a run at work is stopped."""
    with reported():
        root = main_checkout()
        from temper.up import down as command

        command(root)


@app.command()
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


@app.command()
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
