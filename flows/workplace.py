"""Where a flow run works: the checkout it is of, and the standing worktree of its preset."""

from __future__ import annotations

import os
from pathlib import Path

from components.errors import ParamsError
from flows import standing

CHECKOUT = "TEMPER_CHECKOUT"


def root() -> Path:
    """The checkout that TEMPER_CHECKOUT names (`temper up` does), else the one that this code is of."""
    return Path(os.environ.get(CHECKOUT) or Path(__file__).resolve().parents[1])


def enter(preset: str | None) -> Path:
    """Go to the checkout, or to the preset's worktree brought to code and params of now. Raises TemperError."""
    folder = root()
    if not all((folder / name).exists() for name in ("params.yaml", "dvc.yaml", ".dvc")):
        raise ParamsError([f"{folder}: is no Temper workspace (params.yaml, dvc.yaml and .dvc); set {CHECKOUT} to one"])
    os.chdir(folder)
    if preset is None:
        return folder
    checkout, main = standing.checkouts(folder)
    folder = standing.refresh(checkout, preset)
    standing.enter(main, folder, fresh=True)
    return folder
