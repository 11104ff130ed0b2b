"""`temper gc`: free what DVC's cache holds and nothing needs any more."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.text import Text

from components import registry
from components.errors import TemperError
from flows import group, parts, retention


def gc(main: Path, dry_run: bool) -> None:
    """Remove from DVC's cache what no folder and no registered version needs. Raises TemperError."""
    console = Console(soft_wrap=True)
    group.join(main)
    if os.environ.get(parts.BACKEND) and registry.database() is not None:
        raise TemperError(
            f"nothing was removed: {parts.BACKEND} names another store, whose versions are not known here while its "
            f"server is down; `temper up` starts it"
        )
    keep = retention.kept(main)
    if keep.unknown:
        told = ", ".join(keep.unknown[:5])
        console.print(Text(f"not known what these versions are from, so nothing is kept for them: {told}", "yellow"))
    removed, freed = retention.collect(main, keep, dry_run)
    places = "this checkout" + (f" and {len(keep.folders) - 1} presets" if len(keep.folders) > 1 else "")
    needed = f"what {places} and {keep.versions - len(keep.unknown)} registered versions need stays"
    if dry_run:
        console.print(f"would remove {removed} objects of DVC's cache; {needed}")
    else:
        console.print(f"removed {removed} objects of DVC's cache, {freed / 1e6:.1f} MB; {needed}")
