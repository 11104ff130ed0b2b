"""In training too, nothing is computed that no answer reads: after its attention, the last layer of a text classifier
goes on with the first token alone, which is all that the classifier's head looks at.

Same gradients: those of the other tokens are 0. Dropout draws for fewer tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Whose heads read the first token, and whose layers are attention, its output, and a feed-forward part of each token.
ARCHITECTURES = {"bert", "camembert", "electra", "roberta", "xlm-roberta"}


@contextmanager
def alone(module: Any) -> Iterator[None]:
    """As long as this lasts, while that layer trains; nothing changes for any other module."""
    module = module.get_base_model() if hasattr(module, "get_base_model") else module  # with an adapter on it
    config: Any = getattr(module, "config", None)
    known = getattr(config, "model_type", None) in ARCHITECTURES and config.chunk_size_feed_forward == 0
    if not known or not type(module).__name__.endswith("ForSequenceClassification"):
        yield
        return

    def first(layer: Any, given: tuple[Tensor, Tensor]) -> tuple[Tensor, ...] | None:
        return tuple(x[:, :1] for x in given) if layer.training else None

    hook = module.base_model.encoder.layer[-1].attention.output.register_forward_pre_hook(first)
    try:
        yield
    finally:
        hook.remove()
