"""An entry of `variants`: a pass, model to model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from components.params.families import Family
from components.params.fit import Colour, Crop, Fit, Flip, Loop, ResizedCrop, Rotate
from components.params.section import Name, OpenShare, Positive, Section, Share


class Pass(Section):
    """What every variant has: the variant it starts from. `init` is the root."""

    parent: Name = Field(alias="from")


class Train(Pass):
    kind: Literal["train"] = Field(alias="pass")
    fit: Fit


class Contrastive(Section):
    """Two views of an image are to be told from all other images' (SimCLR).

    In fit.groups, names begin with `encoder.`, and of what is dropped afterwards with `projection.`.
    """

    kind: Literal["contrastive"]
    views: Annotated[
        list[Annotated[Flip | Crop | ResizedCrop | Rotate | Colour, Field(discriminator="kind")]],
        Field(min_length=1, max_length=32),
    ]  # what is done to an image to make a view, in this order
    temperature: Annotated[float, Field(gt=0, le=100)]
    projection: Annotated[int, Field(ge=2, le=65_536)]  # width in which views are compared; dropped afterwards


class Masked(Section):
    """Pixels under masked patches are to be guessed (SimMIM)."""

    kind: Literal["masked"]
    ratio: OpenShare  # of the patches


class Pretrain(Pass):
    """Without labels: the classifier stays untrained, so a `train` variant is to follow."""

    kind: Literal["pretrain"] = Field(alias="pass")
    method: Annotated[Contrastive | Masked, Field(discriminator="kind")]
    fit: Loop


class Lora(Pass):
    kind: Literal["lora"] = Field(alias="pass")
    rank: Annotated[int, Field(ge=1, le=4096)]
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    fit: Fit


class Distill(Pass):
    """The parent teaches a student that has a model section of its own."""

    kind: Literal["distill"] = Field(alias="pass")
    temperature: Annotated[float, Field(gt=0, le=1000)]
    weight: Share  # of the soft targets; the rest goes to the labels
    model: Family
    fit: Fit


class Prune(Pass):
    kind: Literal["prune"] = Field(alias="pass")
    ratio: OpenShare  # of the channels of every prunable layer
    round_to: Annotated[int, Field(ge=1, le=1024)]  # what stays is a multiple of this, where as many stay at all
    fit: Fit  # recovery training


Variant = Annotated[Train | Pretrain | Lora | Distill | Prune, Field(discriminator="kind")]


def check_variant(raw: object) -> Variant:
    """One entry of `variants` by itself."""
    made: Variant = TypeAdapter(Variant).validate_python(raw)
    return made
