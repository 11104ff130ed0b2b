"""An entry of `variants`: a pass, model to model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from components.params.families import Family
from components.params.fit import Colour, Crop, Fit, Flip, Loop, ResizedCrop, Rotate
from components.params.section import Count, Name, OpenShare, Positive, Section, Share, Text

SHARES = ("heads", "feed_forward", "hidden", "layers")  # what pass prune can take of a transformer


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


class MaskedLanguage(Section):
    """Tokens under a mask are to be guessed and, with `next_sentence`, whether two parts belong together (BERT).

    In fit.groups, names are those of transformers' model for it.
    """

    kind: Literal["masked_language"]
    ratio: OpenShare  # of the tokens; of these 80 % become the mask token, 10 % another one, 10 % stay
    next_sentence: bool | None = None


class Pretrain(Pass):
    """Without labels: the classifier stays untrained, so a `train` variant is to follow."""

    kind: Literal["pretrain"] = Field(alias="pass")
    method: Annotated[Contrastive | Masked | MaskedLanguage, Field(discriminator="kind")]
    fit: Loop


class Lora(Pass):
    """`targets` are names of layers, with * and ? as in file names; left out, those that the family says.

    `train_head` also trains all weights of what is above the blocks: for a parent whose classifier is untrained.
    """

    kind: Literal["lora"] = Field(alias="pass")
    rank: Annotated[int, Field(ge=1, le=4096)]
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    fit: Fit
    targets: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    dora: bool | None = None  # direction and magnitude apart
    rslora: bool | None = None  # scaled by alpha / sqrt(rank), not alpha / rank
    train_head: bool | None = None


class HiddenStates(Section):
    """The student's tokens after each layer are to be those of the teacher after the layer named in `layers`."""

    weight: Positive
    layers: Annotated[list[Count], Field(min_length=1, max_length=1000)]  # one of the teacher a layer of the student


class Relations(Section):
    """The student's queries, keys and values of the last layer are to relate to each other as the teacher's do."""

    weight: Positive
    heads: Count  # in which both are compared; must divide both widths


class Distill(Pass):
    """The parent teaches a student that has a model section of its own.

    Layers count from 1, the lowest. `copy_layers`: the teacher's layer from which each of the student's starts; what is
    outside the layers is copied too.
    """

    kind: Literal["distill"] = Field(alias="pass")
    temperature: Annotated[float, Field(gt=0, le=1000)]
    weight: Share  # of the soft targets; the rest goes to the labels
    model: Family
    fit: Fit
    hidden: HiddenStates | None = None
    attention: Relations | None = None
    copy_layers: Annotated[list[Count], Field(min_length=1, max_length=1000)] | None = None


class SoftTargets(Section):
    """The unpruned parent teaches what is left of it by its answers."""

    temperature: Annotated[float, Field(gt=0, le=1000)]
    weight: Share  # of the soft targets; the rest goes to the labels


class Prune(Pass):
    """Either `ratio`, of channels, or, of a transformer, shares of its heads, feed-forward width, hidden width, layers.

    Its attention is as wide as its hidden states: `heads` alone takes the same share of the hidden width away, `hidden`
    alone makes every head narrower.
    """

    kind: Literal["prune"] = Field(alias="pass")
    round_to: Annotated[int, Field(ge=1, le=1024)]  # widths that stay are a multiple of it, where as much stays at all
    fit: Fit  # recovery training
    ratio: OpenShare | None = None  # of the channels of every prunable layer
    heads: OpenShare | None = None
    feed_forward: OpenShare | None = None
    hidden: OpenShare | None = None
    layers: OpenShare | None = None
    distill: SoftTargets | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Prune:
        shares = [getattr(self, key) is not None for key in SHARES]
        if any(shares) == (self.ratio is not None):
            raise ValueError(f"must have either ratio, for channels, or at least one of {', '.join(SHARES)}")
        if self.heads is not None and self.hidden is not None and self.hidden < self.heads:
            raise ValueError(
                f"hidden must be at least heads, got {self.hidden} and {self.heads}: the heads that stay are no wider "
                "than before"
            )
        return self


class Qat(Pass):
    """Quantization-aware training: what int8 will round is rounded while training.

    `observe_batches`: how many training batches widen the ranges of activations before they are frozen, as
    onnx_int8_static has them; left out, each batch has its own, as in onnx_int8_dynamic.
    """

    kind: Literal["qat"] = Field(alias="pass")
    fit: Fit
    observe_batches: Count | None = None


Variant = Annotated[Train | Pretrain | Lora | Distill | Prune | Qat, Field(discriminator="kind")]


def check_variant(raw: object) -> Variant:
    """One entry of `variants` by itself."""
    made: Variant = TypeAdapter(Variant).validate_python(raw)
    return made
