"""A `model` section: who answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from components.params.section import Count, Section


class Mlp(Section):
    family: Literal["mlp"]
    hidden: Annotated[list[Count], Field(min_length=1, max_length=64)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Vit(Section):
    family: Literal["vit"]
    patch_size: Count
    hidden_size: Count
    layers: Count
    heads: Count
    head_dim: Count
    intermediate_size: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


Family = Annotated[Mlp | Vit, Field(discriminator="family")]


class Init(Section):
    model: Family


def check_family(raw: object) -> Family:
    """A model section by itself, as a model folder's temper.json holds it."""
    made: Family = TypeAdapter(Family).validate_python(raw)
    return made
