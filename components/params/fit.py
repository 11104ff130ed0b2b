"""A `fit` section: the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.params.section import Count, NonNegative, OpenShare, Positive, Section, Share, Text

# --- optimizer -------------------------------------------------------------------------------------


class AdamW(Section):
    kind: Literal["adamw"]
    lr: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]


class Adam(Section):
    kind: Literal["adam"]
    lr: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]  # added to the gradient; AdamW takes it off the weights


class Sgd(Section):
    kind: Literal["sgd"]
    lr: Annotated[float, Field(gt=0, le=1000)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    momentum: Annotated[float, Field(ge=0, lt=1)]


class Nag(Section):
    """SGD with Nesterov's momentum."""

    kind: Literal["nag"]
    lr: Annotated[float, Field(gt=0, le=1000)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    momentum: Annotated[float, Field(gt=0, lt=1)]


class RmsProp(Section):
    kind: Literal["rmsprop"]
    lr: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    alpha: OpenShare  # of the old in the running mean of squared gradients


class Adagrad(Section):
    kind: Literal["adagrad"]
    lr: Annotated[float, Field(gt=0, le=100)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]


Optimizer = Annotated[AdamW | Adam | Sgd | Nag | RmsProp | Adagrad, Field(discriminator="kind")]


class Schedule(Section):
    kind: Literal["cosine", "linear", "constant"]
    warmup_share: Annotated[float, Field(ge=0, lt=1)]


# --- loss: the task computes it --------------------------------------------------------------------


class CrossEntropy(Section):
    kind: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Mse(Section):
    kind: Literal["mse"]


class Huber(Section):
    kind: Literal["huber"]
    delta: Positive  # below it quadratic, above it linear


class Term(Section):
    weight: Positive
    loss: Annotated[CrossEntropy | Mse | Huber, Field(discriminator="kind")]


class Weighted(Section):
    """The sum of several losses, each times its weight."""

    kind: Literal["weighted"]
    terms: Annotated[list[Term], Field(min_length=2, max_length=16)]


Loss = Annotated[CrossEntropy | Mse | Huber | Weighted, Field(discriminator="kind")]


def unsmoothed(loss: Loss) -> Loss:
    """The same loss as validation judges by it: label smoothing is for training only."""
    if isinstance(loss, CrossEntropy):
        return loss.model_copy(update={"label_smoothing": 0.0})
    if isinstance(loss, Weighted):
        terms = [term.model_copy(update={"loss": unsmoothed(term.loss)}) for term in loss.terms]
        return loss.model_copy(update={"terms": terms})
    return loss


# --- augment: what is done to a training batch, in this order --------------------------------------


class Flip(Section):
    kind: Literal["flip"]
    horizontal: bool
    vertical: bool
    probability: Share  # of each of them, image by image

    @model_validator(mode="after")
    def _some(self) -> Flip:
        if not (self.horizontal or self.vertical):
            raise ValueError("horizontal, vertical or both must be true, or nothing is flipped")
        return self


class Crop(Section):
    """A window of the image's own size, somewhere in the image with a border around it."""

    kind: Literal["crop"]
    padding: Count  # pixels of border at each side


class ResizedCrop(Section):
    """A window of the image, resized to the whole; its sides' ratio is drawn from 3:4 to 4:3."""

    kind: Literal["resized_crop"]
    least_area: OpenShare  # of the image; the window's is drawn from this to 1


class Rotate(Section):
    kind: Literal["rotate"]
    degrees: Annotated[float, Field(gt=0, le=180)]  # at most, either way


class Colour(Section):
    """Each factor is drawn from 1 - x to 1 + x, the hue's shift from -x to x of a full circle."""

    kind: Literal["colour"]
    brightness: Share
    contrast: Share
    saturation: Share
    hue: Annotated[float, Field(ge=0, le=0.5)]

    @model_validator(mode="after")
    def _some(self) -> Colour:
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError("one of brightness, contrast, saturation and hue must be more than 0, or nothing changes")
        return self


class Mixup(Section):
    """Blends pairs of images and of labels; the share comes from Beta(alpha, alpha)."""

    kind: Literal["mixup"]
    alpha: Annotated[float, Field(ge=0.01, le=100)]


class Cutmix(Section):
    """Pastes a box of one image into another; the labels mix by its area, drawn from Beta(alpha, alpha)."""

    kind: Literal["cutmix"]
    alpha: Annotated[float, Field(ge=0.01, le=100)]


class TokenMask(Section):
    """The mask token in place of some tokens; never of special ones, as for the two below."""

    kind: Literal["token_mask"]
    probability: OpenShare  # of each token


class TokenReplace(Section):
    """A random token in place of some."""

    kind: Literal["token_replace"]
    probability: OpenShare  # of each token


class TokenDrop(Section):
    """Some tokens are taken out; at least one stays."""

    kind: Literal["token_drop"]
    probability: OpenShare  # of each token


Augmentation = Annotated[
    Flip | Crop | ResizedCrop | Rotate | Colour | Mixup | Cutmix | TokenMask | TokenReplace | TokenDrop,
    Field(discriminator="kind"),
]
AUGMENTATIONS_OF_TEXT = (TokenMask, TokenReplace, TokenDrop)  # all others are for images

# --- groups: what holds for some layers only -------------------------------------------------------


class Group(Section):
    """Parameters and dropout layers whose name, or that of a module around them, `match` fits; the first fit counts."""

    match: Text  # with * and ? as in file names; a * also covers dots
    lr_factor: NonNegative | None = None
    weight_decay: Annotated[float, Field(ge=0, le=10)] | None = None  # of all that match, biases too
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    freeze: bool | None = None

    @model_validator(mode="after")
    def _some(self) -> Group:
        if self.lr_factor is None and self.weight_decay is None and self.dropout is None and not self.freeze:
            raise ValueError("says nothing; give lr_factor, weight_decay, dropout or freeze")
        if self.freeze and (self.lr_factor is not None or self.weight_decay is not None):
            raise ValueError("what is frozen has neither lr_factor nor weight_decay; take them out")
        return self


# --- the whole -------------------------------------------------------------------------------------


class Loop(Section):
    """What any training loop needs, with labels or without."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    optimizer: Optimizer
    schedule: Schedule
    clip_norm: Positive
    patience: Annotated[int, Field(ge=1, le=100_000)]  # epochs without a better validation loss
    precision: Literal["bf16", "fp16"] | None = None  # of matrix products and convolutions; weights stay fp32
    accumulate: Annotated[int, Field(ge=2, le=100_000)] | None = None  # batches an optimizer step
    checkpoint_activations: bool | None = None  # compute them again in the backward pass, do not store them
    groups: Annotated[list[Group], Field(min_length=1, max_length=1000)] | None = None
    layer_decay: OpenShare | None = None  # a block's learning rate in shares of the one's above
    ema_decay: OpenShare | None = None  # of the exponential moving average of weights, which is validated and kept
    unfreeze: Annotated[int, Field(ge=1, le=1000)] | None = None  # epochs until the next block from the top is trained


class Fit(Loop):
    loss: Loss
    augment: Annotated[list[Augmentation], Field(min_length=1, max_length=32)] | None = None
