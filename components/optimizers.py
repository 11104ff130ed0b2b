"""Optimizers and schedules of fit: what params say, as torch has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from components.params import Optimizer, Schedule

if TYPE_CHECKING:
    import torch


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Factor on the learning rate at a step: linear warm-up, then constant, linear or cosine to 0."""
    warmup = int(schedule.warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule.kind == "linear" else 1.0


# Params to the optimizer and what it takes besides the learning rate and weight decay.
OPTIMIZERS: dict[str, Callable[[Any], tuple[str, dict[str, Any]]]] = {  # fused where torch has it: one pass over memory
    "adamw": lambda params: ("AdamW", {"fused": True}),
    "adam": lambda params: ("Adam", {"fused": True}),
    "sgd": lambda params: ("SGD", {"momentum": params.momentum, "fused": True}),
    "nag": lambda params: ("SGD", {"momentum": params.momentum, "nesterov": True, "fused": True}),
    "rmsprop": lambda params: ("RMSprop", {"momentum": params.momentum, "alpha": params.alpha}),
    "adagrad": lambda params: ("Adagrad", {"fused": True}),
}


def optimizer(params: Optimizer, parts: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """`parts` are torch's parameter groups."""
    import torch

    name, arguments = OPTIMIZERS[params.kind](params)
    made: torch.optim.Optimizer = getattr(torch.optim, name)(parts, lr=params.lr, **arguments)
    return made
