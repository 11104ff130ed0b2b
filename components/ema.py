"""fit.ema_decay: the exponential moving average of the weights, which stands still where they swing about.

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
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    now = module.state_dict()
    moving = [name for name, x in now.items() if x.is_floating_point()]
    step = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    step([mean[name] for name in moving], [now[name] for name in moving], 0)
    for name in now.keys() - {*moving}:
        mean[name].copy_(now[name])


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
