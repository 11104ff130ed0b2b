"""A `model` section: who answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from components.params.section import Count, FilePath, Section


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


def _architecture_or_checkpoint(made: TransformersImage | Bert) -> None:
    if (made.checkpoint is None) == (made.architecture is None) or (made.architecture is None) != (made.config is None):
        raise ValueError("must have either a checkpoint, or an architecture and its config ({}: all as it comes)")
    if made.revision is not None and made.checkpoint is None:
        raise ValueError("revision belongs to a checkpoint")


class TransformersImage(Section):
    """Either `architecture` with its `config`, or, in init, `checkpoint`: a folder or a name on the hub.

    `revision` is the commit to take from the hub; left out, the newest, which is looked up at every run.
    """

    family: Literal["transformers_image"]
    architecture: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] | None = None
    config: dict[str, Any] | None = None
    checkpoint: FilePath | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None

    @model_validator(mode="after")
    def _either(self) -> TransformersImage:
        _architecture_or_checkpoint(self)
        return self


class Bert(Section):
    """Any text classifier of transformers: `architecture` (bert, distilbert, roberta, electra, ...) with its `config`,
    or, in init, `checkpoint`: a folder or a name on the hub.

    `revision` is the commit to take from the hub; left out, the newest, which is looked up at every run.
    """

    family: Literal["bert"]
    architecture: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] | None = None
    config: dict[str, Any] | None = None
    checkpoint: FilePath | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None

    @model_validator(mode="after")
    def _either(self) -> Bert:
        _architecture_or_checkpoint(self)
        return self


Family = Annotated[
    Perceptron | Mlp | Lenet | Alexnet | Vgg | Resnet | Vit | TransformersImage | Bert, Field(discriminator="family")
]

# Which families answer which task.
FAMILIES_OF = {
    "image_classification": ("perceptron", "mlp", "lenet", "alexnet", "vgg", "resnet", "vit", "transformers_image"),
    "text_classification": ("bert",),
}

FEATURELESS = ("perceptron",)  # nothing before the classifier that `pretrain` could train
LANGUAGE = ("bert",)  # `pretrain` can mask their tokens: they offer what components.model.LanguageModel says
NEXT_SENTENCE = ("bert",)  # architectures of transformers that can be asked whether two texts belong together
BLOCKED = ("resnet", "vit", "bert")  # made of blocks: they offer what components.model.Blocked says
TOKENS = ("vit", "bert")  # whose blocks turn tokens into tokens, by attention
NARROWABLE = ("bert",)  # `prune` takes shares of their parts: they offer what components.model.Narrowable says
MASKABLE = ("vit",)  # `pretrain` can mask their patches: they offer what components.model.Maskable says


class Init(Section):
    model: Family


def check_family(raw: object) -> Family:
    """A model section by itself, as a model folder's temper.json holds it."""
    made: Family = TypeAdapter(Family).validate_python(raw)
    return made
