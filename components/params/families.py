"""A `model` section: who answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from components.params.section import Count, Section, Text


class Perceptron(Section):
    family: Literal["perceptron"]


class Mlp(Section):
    family: Literal["mlp"]
    hidden: Annotated[list[Count], Field(min_length=1, max_length=64)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Lenet(Section):
    family: Literal["lenet"]
    widths: Annotated[list[Count], Field(min_length=2, max_length=2)]  # of the convolutions
    hidden: Annotated[list[Count], Field(min_length=1, max_length=8)]  # of the linear layers but the last


class Alexnet(Section):
    family: Literal["alexnet"]
    widths: Annotated[list[Count], Field(min_length=5, max_length=5)]
    hidden: Annotated[list[Count], Field(min_length=1, max_length=8)]
    dropout: Annotated[float, Field(ge=0, lt=1)]  # before each hidden layer


class Vgg(Section):
    family: Literal["vgg"]
    stages: Annotated[
        list[Annotated[list[Count], Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=16)
    ]  # widths of the convolutions, a list for each pooling
    hidden: Annotated[list[Count], Field(max_length=8)]
    dropout: Annotated[float, Field(ge=0, lt=1)]  # after each hidden layer


class Resnet(Section):
    """`inner_widths`, one a block, are for a network that was pruned; left out, blocks are as wide as their stage."""

    family: Literal["resnet"]
    stem: Literal["cifar", "imagenet"]  # 3x3, or 7x7 and a pooling that leave a quarter of the height and width
    widths: Annotated[list[Count], Field(min_length=1, max_length=8)]  # of the stages
    blocks: Annotated[list[Count], Field(min_length=1, max_length=8)]  # in each stage
    inner_widths: list[list[Count]] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)]  # before the classifier

    @model_validator(mode="after")
    def _stages(self) -> Resnet:
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"widths and blocks must have an entry a stage each, got {self.widths} and {self.blocks}")
        if self.inner_widths is not None and [len(stage) for stage in self.inner_widths] != self.blocks:
            raise ValueError(f"inner_widths must have an entry a block, as blocks {self.blocks} counts them")
        return self


class Vit(Section):
    family: Literal["vit"]
    patch_size: Count
    hidden_size: Count
    layers: Count
    heads: Count
    head_dim: Count
    intermediate_size: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


class TransformersImage(Section):
    """Either `architecture` with its `config`, or, in init, `checkpoint`: a folder or a name on the hub.

    `revision` is the commit to take from the hub; left out, the newest, which is looked up at every run.
    """

    family: Literal["transformers_image"]
    architecture: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] | None = None
    config: dict[str, Any] | None = None
    checkpoint: Text | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None

    @model_validator(mode="after")
    def _either(self) -> TransformersImage:
        if (self.checkpoint is None) == (self.architecture is None) or (self.architecture is None) != (
            self.config is None
        ):
            raise ValueError("must have either a checkpoint, or an architecture and its config ({}: all as it comes)")
        if self.revision is not None and self.checkpoint is None:
            raise ValueError("revision belongs to a checkpoint")
        return self


Family = Annotated[
    Perceptron | Mlp | Lenet | Alexnet | Vgg | Resnet | Vit | TransformersImage, Field(discriminator="family")
]

FEATURELESS = ("perceptron",)  # nothing before the classifier that `pretrain` could train
MASKABLE = ("vit",)  # `pretrain` can mask their patches: they offer what components.model.Maskable says


class Init(Section):
    model: Family


def check_family(raw: object) -> Family:
    """A model section by itself, as a model folder's temper.json holds it."""
    made: Family = TypeAdapter(Family).validate_python(raw)
    return made
