"""A `fit` section: the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.params.section import Positive, Section


class AdamW(Section):
    kind: Literal["adamw"]
    lr: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]


class Sgd(Section):
    kind: Literal["sgd"]
    lr: Annotated[float, Field(gt=0, le=1000)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    momentum: Annotated[float, Field(ge=0, lt=1)]


class Schedule(Section):
    kind: Literal["cosine", "linear", "constant"]
    warmup_share: Annotated[float, Field(ge=0, lt=1)]


class Fit(Section):
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    optimizer: Annotated[AdamW | Sgd, Field(discriminator="kind")]
    schedule: Schedule
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    clip_norm: Positive
    patience: Annotated[int, Field(ge=1, le=100_000)]  # epochs without a better validation loss
