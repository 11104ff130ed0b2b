"""What the tests of this folder share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.conftest import environment, prefect, served, workspace

__all__ = ["environment", "prefect", "served", "sound", "workspace"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sound() -> Callable[[Path], None]:
    """Fails if what must hold at any time does not hold in a workspace: `temper doctor --invariants` there."""

    def check(folder: Path) -> None:
        ours = ("TEMPER_", "PREFECT_", "MLFLOW_", "_MLFLOW_", "DVC_")
        known = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        done = subprocess.run(
            [sys.executable, "-m", "temper", "doctor", "--invariants"],
            cwd=folder,
            env=known | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return check
