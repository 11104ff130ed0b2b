"""`temper preset`: the presets there are, what one makes of params.yaml, taking its worktree away."""

from __future__ import annotations

from typing import Annotated

import typer

from temper.workspace import console, enter, reported

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=(
        "Other data sets and models: presets/<name>.yaml, laid over params.yaml.\n\n"
        "Source, task, init, variants and targets replace those of params.yaml as a whole if given; every other "
        "section merges key by key. A preset names its own registered model ([bold]name[/bold]); its source may be a "
        "list, of which the first whose data are there is taken.\n\n"
        "  [cyan]temper run --preset NAME[/cyan]   runs it in .temper/presets/NAME, with your code as it is now; what "
        "ran is committed to refs/temper/NAME, and your branch, index and files stay as they are\n\n"
        "  [cyan]temper status|matrix|promote|lr-find --preset NAME[/cyan]   the same for the other commands\n\n"
        "  [cyan]git show refs/temper/NAME:params.yaml[/cyan]   what ran last"
    ),
)
Named = Annotated[str, typer.Argument(metavar="NAME", help="Of presets/NAME.yaml.")]


@app.command("list")
def show_all() -> None:
    """Each preset: what it is, where its worktree is, its champion."""
    with reported():
        here = enter()
        from rich.table import Table

        from components import params, registry
        from components.errors import TemperError
        from flows import overlay, standing

        root, main = standing.checkouts(here)
        table = Table("preset", "what it is", "worktree", "champion", box=None, padding=(0, 2), header_style="dim")
        for name in overlay.names(root):
            path = overlay.find(root, name)
            lines = path.read_text("utf-8", errors="replace").splitlines()
            about = next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
            folder = standing.path(main, name)
            try:
                version = registry.champion(str(params.read(path)["name"]))
                champion = f"version {version.version}, {version.tags.get('cell', '')}" if version else "none yet"
            except (TemperError, KeyError, TypeError):
                champion = "unknown"
            table.add_row(name, about, str(folder.relative_to(main)) if folder.is_dir() else "none yet", champion)
        if table.row_count:
            console().print(table)
        else:
            console().print("There are no presets yet: write presets/<name>.yaml; `temper preset --help` says how.")


@app.command()
def show(name: Named) -> None:
    """The merged params, checked: what `temper run --preset NAME` would run."""
    with reported():
        here = enter()
        from flows import overlay, standing

        typer.echo(overlay.merged(*standing.checkouts(here), name), nl=False)


@app.command()
def remove(name: Named) -> None:
    """Take the worktree of a preset away. What ran stays in refs/temper/NAME, the results in DVC's cache."""
    with reported():
        here = enter()
        from flows import overlay, standing

        root, main = standing.checkouts(here)
        if standing.path(main, name).is_dir():
            standing.remove(root, name)
            typer.echo(f"the worktree of {name} is gone; refs/temper/{name} and the registered models stay")
        else:
            overlay.find(root, name)
            typer.echo(f"{name} has no worktree")
