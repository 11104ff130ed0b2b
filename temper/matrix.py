"""`temper matrix`: the last matrix, what was chosen and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from components.errors import TemperError
from temper import workspace

MATRIX, DECISION = Path("work/matrix/matrix.json"), Path("work/decision/decision.json")


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def show(console: Console) -> None:
    """Print the table and the decision. Raises TemperError if there is no matrix yet."""
    from components import report

    matrix, decision = read(MATRIX), read(DECISION)
    if matrix is None:
        raise TemperError(f"there is no matrix yet; `{workspace.command('run')}` makes it")
    console.print(report.table(matrix, decision))
    if decision is not None:
        console.print(Text.assemble(("decision: ", "bold"), f"{decision['action']}: {decision.get('reason', '')}"))
        for cell in decision["failed"]:
            reason = next((row["reason"] for row in matrix["cells"] if row["cell"] == cell), "")
            console.print(Text(f"failed: {cell}: {reason}", style="bold red"))
    console.print(Text("pictures and details: work/matrix/report.html", style="dim"))
    console.print(
        Text(f"why each cell may or may not be promoted: {workspace.command('promote --dry-run')}", style="dim")
    )
