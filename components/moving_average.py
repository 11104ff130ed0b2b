"""The running mean of the weights that training went through: it stands where they swing about.

Polyak & Juditsky, SIAM J. Control Optim. 30(4), 1992; Tarvainen & Valpola, arXiv 1703.01780. Statistics of batches are
averaged too; counters are those of the last step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def start(module: torch.nn.Module) -> dict[str, Tensor]:
    """A mean of what the module holds now."""
    return {name: x.detach().clone() for name, x in module.state_dict().items()}


def add(mean: dict[str, Tensor], module: torch.nn.Module, decay: float) -> None:
    """mean = decay * mean + (1 - decay) * now."""
    import torch

    with torch.no_grad():
        for name, x in module.state_dict().items():
            if x.is_floating_point():
                mean[name].lerp_(x, 1 - decay)
            else:
                mean[name].copy_(x)


@contextlib.contextmanager
def in_place(module: torch.nn.Module, mean: dict[str, Tensor]) -> Iterator[None]:
    """The module computes with the mean; without one, with what it has."""
    if not mean:
        yield
        return
    now = start(module)
    module.load_state_dict(mean)
    try:
        yield
    finally:
        module.load_state_dict(now)
