"""What became of a pipeline run, and the exit code that says it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from flows.runner import StageFailed, What


@dataclass
class Outcome:
    """What became of every stale stage."""

    run: str
    order: list[str] = field(default_factory=list)
    stale: dict[str, list[str]] = field(default_factory=dict)
    done: dict[str, tuple[What, float]] = field(default_factory=dict)  # how, seconds
    failed: dict[str, StageFailed] = field(default_factory=dict)
    failed_cells: list[str] = field(default_factory=list)
    seconds: float = 0.0
    promotion: str = ""  # what promote said
    untracked: str = ""  # why the run is not in MLflow

    @property
    def skipped(self) -> list[str]:
        return [name for name in self.stale if name not in self.done and name not in self.failed]

    @property
    def exit_code(self) -> int:
        """0; the one code that all failed stages ended with, where it is one of ours; else 1."""
        codes = {failure.exit_code for failure in self.failed.values()}
        if len(codes) == 1 and codes <= {2, 3, 4}:
            return codes.pop()
        return 1 if self.failed or self.skipped or self.failed_cells or self.untracked else 0


def failed_cells() -> list[str]:
    """Cells of the matrix that ended in an exception, as the last decision names them."""
    path = Path("work/decision/decision.json")
    return list(json.loads(path.read_text("utf-8")).get("failed", [])) if path.exists() else []
