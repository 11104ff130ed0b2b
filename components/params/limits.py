"""What one stage may take of the machine."""

from __future__ import annotations

from components.params.section import Positive, Section


class Limits(Section):
    """Watched by `temper run` and scheduled runs: a stage that takes more is ended, and only it; null is no limit."""

    memory_gb: Positive | None = None  # resident, of its processes together
    disk_gb: Positive | None = None  # of what it has written and not yet put in place
