"""When this is retrained without anyone watching, and who is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.params.section import Positive, Section, Text


class Retraining(Section):
    """Used by `temper up`, which checks cron and time zone as Prefect does; no stage reads it."""

    cron: Text
    timezone: Text  # of the IANA list
    stage_timeout_s: Positive | None = None  # left out: twelve hours
    notify: Annotated[list[Text], Field(min_length=1)] | None = None  # Prefect blocks, as <type>/<name>
