"""Where a command works, and how it ends when something is wrong."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components import scratch
from components.disk import disk_faults
from components.errors import ParamsError, TemperError
from components.redaction import guard, without_secrets

if TYPE_CHECKING:
    from rich.console import Console

Preset = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of presets/NAME.yaml, in its own worktree; see temper preset.")
]


def enter(preset: str | None = None, fresh: bool = True) -> Path:
    """Go to the workspace's root, from anywhere inside it; with `preset`, on to that preset's standing worktree.

    There, code and params are brought to those of now if `fresh`, else left as they last ran.
    """
    from components import registry
    from flows import group

    root = _root()
    if preset is not None:
        from flows import overlay, standing

        root, main = standing.checkouts(root)
        if fresh:
            root = standing.refresh(root, preset)
        else:
            overlay.find(root, preset)
            root = standing.path(main, preset)
            if not root.is_dir():
                raise TemperError(f"preset {preset} has not run yet; `temper run --preset {preset}` runs it")
        standing.enter(main, root, fresh)
        console().print(f"[dim]preset {preset}, in {root}[/dim]", soft_wrap=True)
    group.join(registry.root())
    return root


@contextlib.contextmanager
def inside(preset: str | None = None, fresh: bool = True) -> Iterator[None]:
    """`enter`, for a command that writes temporary files: a kill strands none."""
    enter(preset, fresh)
    with scratch.private():
        yield


def main_checkout() -> Path:
    """Go to the checkout whose servers are meant, from anywhere inside it or a worktree of its presets."""
    from components import registry

    _root()
    root = registry.root()
    os.chdir(root)
    return root


def command(words: str) -> str:
    """`temper <words>` as it is to be typed to mean this workspace."""
    from flows import snapshot

    preset = snapshot.standing(Path.cwd())
    return f"temper {words}" + (f" --preset {preset}" if preset else "")


def _root() -> Path:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if all((folder / name).exists() for name in ("params.yaml", "dvc.yaml", ".dvc")):
            os.chdir(folder)
            return folder
    raise ParamsError(
        [f"{here}: not inside a Temper workspace (a folder with params.yaml, dvc.yaml and .dvc); cd to one"]
    )


def console() -> Console:
    """For tables: as wide as the terminal, 120 columns where there is none (a log, a pipe)."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=120)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """What the user can act on is printed in red without a traceback; the exit code says which kind it is."""
    guard()
    try:
        with disk_faults(Path.cwd()):
            yield
    except TemperError as error:
        from rich.console import Console
        from rich.text import Text

        kind = "refused, before any work" if isinstance(error, ParamsError) else "error"
        console = Console(stderr=True, soft_wrap=True)
        console.print(Text(f"{kind}:", style="bold red"))
        for line in without_secrets(str(error)).splitlines():
            console.print(Text(f"  {line}"))
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:  # `temper matrix | head`
        sys.stderr.close()
        raise typer.Exit(0) from None
