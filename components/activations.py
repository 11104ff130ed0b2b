"""checkpoint_activations: activations inside a block are computed again in the backward pass, not stored.

Chen et al., arXiv 1604.06174. Same weights as without: dropout draws the same, running statistics count once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from components.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def _uncounted(block: Any) -> Iterator[None]:
    """Normalisation by the batch goes on, but what is computed again is not added to the running statistics again."""
    counting = [layer for layer in block.modules() if getattr(layer, "track_running_stats", False) and layer.training]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in counting]
    for layer in counting:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, batches) in zip(counting, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches


def _how(module: Any) -> dict[str, Any]:
    """Arguments of torch.utils.checkpoint for blocks of this module."""
    return {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _uncounted(module))}


def _wrap(block: Any) -> None:
    import torch
    from torch.utils.checkpoint import checkpoint

    plain, how = block.forward, _how(block)

    def forward(x: Tensor) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return plain(x)
        return checkpoint(plain, x, **how)

    block.forward = forward


@contextmanager
def checkpointed(module: Any) -> Iterator[None]:
    """As long as this lasts. Raises TrainingError for a family that is not made of blocks."""
    module = module.get_base_model() if hasattr(module, "get_base_model") else module  # with an adapter on it
    if getattr(module, "supports_gradient_checkpointing", False):  # transformers
        module.activation_checkpointing_enable(_how(module))
        try:
            yield
        finally:
            module.activation_checkpointing_disable()
        return
    stages = getattr(module, "stages", None)
    if stages is None:
        raise TrainingError(
            "fit.checkpoint_activations: this family is not made of blocks that could be computed again; families "
            "that are: resnet, and those of transformers (vit). Take it out"
        )
    blocks = [block for stage in stages for block in stage]
    for block in blocks:
        _wrap(block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own again
