"""`temper doctor`: what this machine can and cannot do, each with its remedy."""

from __future__ import annotations

from rich.text import Text

from temper.checkout import promotions, workspace
from temper.findings import show
from temper.machine import hardware, interpreter, packages, programs, servers
from temper.workspace import console as wide


def doctor() -> int:
    """Print every finding; 1 if one is a failure."""
    findings = [*interpreter(), *packages(), *programs(), *hardware(), *workspace(), *servers(), *promotions()]
    console = wide()
    failures = show(console, findings)
    if failures:
        console.print(Text(f"{failures} of {len(findings)} checks failed: Temper cannot work here yet", "bold red"))
    else:
        console.print("Temper can work here.")
    return 1 if failures else 0
