"""`temper rollback`: back to an earlier champion in one command."""

from __future__ import annotations

import time

from rich.text import Text

from components import params
from temper import workspace


def rollback(version: int | None, reason: str) -> None:
    """Raises TemperError, and moves nothing, if there is no such champion or it does not answer."""
    from components.rollback import back

    started = time.monotonic()
    said = back(params.load().name, version, reason)
    workspace.console().print(Text(f"{said} ({time.monotonic() - started:.1f} s)"), soft_wrap=True)
