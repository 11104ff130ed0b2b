"""Commands that take a registered version: temper verify, sign, key, rollback, history, show, reproduce, lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.workspace import Preset, enter, inside, reported

PANEL = "Registered versions"

app = typer.Typer()

Version = Annotated[str, typer.Argument(help="A registered version (3) or an alias.")]


@app.command(rich_help_panel=PANEL)
def verify(version: Version = "champion", preset: Preset = None) -> None:
    """Whether a registered version is as it was registered: every file's hash, nothing foreign in it, its signature.

    TEMPER_VERIFY_KEY names the public key that it must be signed with; without one the registry's hashes count.
    """
    with reported(), inside(preset, fresh=False):
        from temper.verify import verify as command

        command(version)


@app.command(rich_help_panel=PANEL)
def sign(version: Version = "champion", preset: Preset = None) -> None:
    """Sign a version that was registered without a key, or with an older one, after checking that it is whole.

    New versions are signed by themselves where TEMPER_SIGNING_KEY names a private key.
    """
    with reported(), inside(preset, fresh=False):
        from temper.verify import sign as command

        command(version)


@app.command(rich_help_panel=PANEL)
def key(
    path: Annotated[Path, typer.Argument(help="Of the private key; the public one goes beside it, with .pub.")],
) -> None:
    """Make a pair of keys to sign versions with: elliptic, P-256; nothing is written over, nothing goes online."""
    with reported():
        from temper.key import key as command

        command(path)


@app.command(rich_help_panel=PANEL)
def rollback(
    version: Annotated[
        int | None, typer.Argument(min=1, help="Left out: the champion before, along the journal.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, which the journal keeps: it must be given.")] = "",
    preset: Preset = None,
) -> None:
    """Make an earlier champion the champion again, after proving that it loads and answers as it did.

    Needs no data and no run. A second rollback goes one champion further back. What was rolled back stays out, however
    good its figures, and no other build of the same data and params takes its place, until `temper promote --again` or
    a rollback to it. A run on other data, or with other params, decides anew.
    """
    with reported(), inside(preset, fresh=False):
        from temper.rollback import rollback as command

        command(version, reason)


@app.command(rich_help_panel=PANEL)
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


@app.command(rich_help_panel=PANEL)
def show(
    version: Annotated[str, typer.Argument(help="A number, or an alias: champion, previous, challenger.")] = "champion",
    preset: Preset = None,
) -> None:
    """All that is known of a registered version: what it is now, what was measured, what made it, its promotions."""
    with reported():
        enter(preset, fresh=False)
        from temper.show import show as command

        command(version)


@app.command(rich_help_panel=PANEL)
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
    with reported(), inside(preset, fresh=False):
        from temper.reproduce import reproduce as command

        code = command(version, keep, stage_timeout_s)
    raise typer.Exit(code)


@app.command(rich_help_panel=PANEL)
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
