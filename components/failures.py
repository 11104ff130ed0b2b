"""Which cells failed when they were last tried, in which stage, and which file says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORK = Path("work")
STAGES = ("build", "engine", "evaluate", "benchmark")

Failures = dict[str, dict[str, Path]]  # stage: {cell: the file with its cause}


def found() -> Failures:
    """A cell counts where it failed first: the stages after that repeat its status, and cannot mend it."""
    failed: Failures = {stage: {} for stage in STAGES}
    for stage, folder in (("build", "builds"), ("engine", "engines"), ("evaluate", "predictions")):
        for path in sorted((WORK / folder).glob("*/*/record.json")):
            cell = f"{path.parent.parent.name}/{path.parent.name}"
            if _read(path)["status"] != "failed" or cell in failed["build"] or cell in failed["engine"]:
                continue
            # No engine was tried if the export that it would be made from had failed.
            export = failed["build"].get(f"{path.parent.parent.name}/export") if stage == "engine" else None
            failed["build" if export else stage][cell] = export or path
    cells = WORK / "benchmark" / "cells.json"
    try:
        timed = _read(cells) if cells.exists() else {}
    except ValueError:  # cut short: DVC sees that it is not what benchmark wrote, and has it made again
        timed = {}
    for cell, said in timed.items():
        if said["status"] == "failed" and cell not in failed["build"] | failed["engine"]:
            failed["benchmark"][cell] = cells
    return failed


def _read(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return read
