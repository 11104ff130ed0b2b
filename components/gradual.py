"""What goes block by block, from the top down: fit.layer_decay and fit.unfreeze.

Both are from Howard & Ruder, arXiv 1801.06146 (discriminative fine-tuning, gradual unfreezing); a decay that starts
from the head as in ELECTRA (Clark et al., arXiv 2003.10555).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.errors import TrainingError
from components.model import Model
from components.params import BLOCKED, Group

if TYPE_CHECKING:
    from torch import nn


def _blocks(model: Model, key: str) -> list[nn.Module]:
    if found := model.blocks():
        return found
    raise TrainingError(
        f"fit.{key}: goes by blocks, and family {model.params.family} has none; families that do: "
        f"{', '.join(BLOCKED)}. Take it out"
    )


def learning_rates(
    model: Model, trained: Mapping[str, nn.Parameter], grouped: Mapping[str, Group], decay: float
) -> dict[str, float]:
    """The factor of each trained parameter in a block: decay in the top one, decay^2 below it, and so on.

    What is in no block, the head, learns at the full rate. Raises TrainingError where a group says another.
    """
    blocks = _blocks(model, "layer_decay")
    depths = {id(p): len(blocks) - number for number, block in enumerate(blocks) for p in block.parameters()}
    inside = {name: depths[id(p)] for name, p in trained.items() if id(p) in depths}
    if twice := [name for name in inside if name in grouped and grouped[name].lr_factor is not None]:
        group = grouped[twice[0]]
        raise TrainingError(
            f"fit.layer_decay: gives {twice[0]} a learning rate, and so does fit.groups with match {group.match!r}; "
            "take out one of them"
        )
    return {name: decay**depth for name, depth in inside.items()}


@dataclass(frozen=True)
class Unfreezing:
    """`waiting`: for each block that is frozen at first, from the top, its trained parameters and the block itself."""

    waiting: list[tuple[list[nn.Parameter], nn.Module]]
    epochs: int  # until the next

    @property
    def last(self) -> int:
        """The epoch from which on all are trained."""
        return self.epochs * len(self.waiting)

    def frozen(self, epoch: int) -> list[nn.Module]:
        """Freeze and thaw for this epoch. Returns the frozen blocks: their running statistics must stay too."""
        still = []
        for number, (parameters, block) in enumerate(self.waiting, 1):
            trained = epoch >= self.epochs * number
            for parameter in parameters:
                parameter.requires_grad_(trained)
            if not trained:
                still += [layer for layer in block.modules() if getattr(layer, "track_running_stats", False)]
        return still


def unfreezing(model: Model, trained: Mapping[str, nn.Parameter], every: int, epochs: int) -> Unfreezing:
    """The head first, alone; then a block more every so many epochs. Blocks with nothing to train are passed over.

    Raises TrainingError if there are too few epochs to come to the lowest.
    """
    left = {id(p): p for p in trained.values()}
    waiting = []
    for block in reversed(_blocks(model, "unfreeze")):
        if mine := [left.pop(id(p)) for p in block.parameters() if id(p) in left]:
            waiting.append((mine, block))
    if not left:  # nothing outside of the blocks: as with most adapters
        waiting = waiting[1:]
    made = Unfreezing(waiting, every)
    if made.last >= epochs:
        raise TrainingError(
            f"fit.unfreeze: {len(waiting)} blocks, one every {every} epochs, are all trained from epoch {made.last} "
            f"on, and fit.epochs is {epochs}; make it more than {made.last}, or unfreeze less"
        )
    return made
