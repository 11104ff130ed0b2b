"""What the sections of params.yaml are made of."""

from __future__ import annotations

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
Text = Annotated[str, Field(min_length=1, max_length=500)]


def _relative(path: str) -> str:
    parts = Path(path).parts
    if "\x00" in path or "\n" in path or path.startswith("~") or ".." in parts:
        raise ValueError("must be a plain path without '..', '~' or line breaks")
    return path


FilePath = Annotated[Text, AfterValidator(_relative)]


class Section(BaseModel):
    """One mapping of params.yaml: unknown keys and NaN are refused, types are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)
