"""`temper lineage`: what a version is from, as a tree in the terminal or a page."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from components import params, registry
from components.errors import TemperError
from flows.lineage import Lineage, trace
from temper import workspace

STYLES = {"source": "cyan", "data version": "cyan", "variant": "magenta", "build": "yellow", "version": "bold green"}


def lineage(which: str, page: Path | None) -> None:
    """Print the tree, or write the page. Raises TemperError for a version that is not there."""
    name = params.load().name
    found = trace(registry.find(name, which), name, Path.cwd())
    console = workspace.console()
    if page is None:
        _draw(console, found)
        return
    from components.report import lineage as report

    aside = page.with_name(f".{page.name}.{os.getpid()}")
    try:
        aside.write_text(report.render(found), "utf-8")
        aside.replace(page)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise TemperError(
            f"{page}: cannot be written: {error.strerror}; name a file in a folder that is there"
        ) from None
    console.print(f"written: {page}", soft_wrap=True)


def _draw(console: Console, found: Lineage) -> None:
    root = at = Tree("")
    for number, step in enumerate(found.steps):
        label = Text.assemble((f"{step.kind} ", "dim"), (step.title, STYLES.get(step.kind, "bold")))
        for name, value in step.facts.items():
            label.append(f"\n{name}: ", "dim").append(value)
        at = at.add(label) if number else root
        at.label = label
    for alias in found.aliases:
        at.add(Text.assemble(("alias ", "dim"), (alias, "bold green")))
    for move in found.moves:
        at.add(Text.assemble((f"{move.time} ", "dim"), move.words, (f" by {move.who}", "dim")))
    console.print(root)
    for note in found.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)
