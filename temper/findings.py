"""What a check found, and the table that shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Level = Literal["ok", "note", "warn", "fail"]
STYLES: dict[Level, str] = {"ok": "green", "note": "dim", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of a report; `fail` means that it must be mended."""

    level: Level
    what: str
    found: str
    remedy: str = ""


def show(console: Console, findings: Iterable[Finding]) -> int:
    """Print every finding; returns how many are failures."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    failures = 0
    for finding in findings:
        failures += finding.level == "fail"
        style = STYLES[finding.level]
        told = Text(finding.found)
        if finding.remedy:
            told.append(f"\n{finding.remedy}", style="italic" if finding.level == "note" else f"italic {style}")
        table.add_row(Text(finding.level, style=style), finding.what, told)
    console.print(table)
    return failures
