"""What the sections of params.yaml are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME = r"^[a-z][a-z0-9_]{0,62}$"

Name = Annotated[str, Field(pattern=NAME)]
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
Bounded = Annotated[float, Field(ge=-1e9, le=1e9)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


# Controls, line breaks of any kind, and marks that turn the direction of what is read.
UNPRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _plain(text: str) -> str:
    if UNPRINTED.search(text):
        raise ValueError("must be one line of text, without control characters")
    return text


Text = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_plain)]
# What a shell or a URL would read as something else than a name. Nothing here goes through a shell: this is for whoever
# copies a path from a message into one.
SPECIAL = re.compile(r"[$`;|<>\\]|%[0-9A-Fa-f]{2}")


def _relative(path: str) -> str:
    if path.startswith("~") or ".." in Path(path).parts:
        raise ValueError("must be a plain path, without '..' or '~'")
    if found := SPECIAL.search(path):
        raise ValueError(f"must be a plain path, without {found[0]}")
    return path


FilePath = Annotated[Text, AfterValidator(_relative)]


class Section(BaseModel):
    """One mapping of params.yaml: unknown keys and NaN are refused, types are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)
