"""How much the parts of a transformer's encoder matter to the loss on training rows.

Channels and heads: the first-order Taylor estimate of what the loss would change without them, |activation x gradient|
summed over tokens (Molchanov et al., arXiv 1906.10771; of heads: Michel et al., arXiv 1905.10650), then over rows.
Layers: one by one, each time the one without which the loss is least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from components.data import Rows, trimmed
from components.fit import measure
from components.model import Encoder, Model
from components.params import Loss, unsmoothed

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 64


def outside(module: nn.Module, encoder: Encoder) -> list[tuple[str, nn.Module]]:
    """Linear layers outside of the blocks: of electra what widens embeddings, then what pools, then the classifier."""
    from torch import nn

    inside = f"{encoder.blocks}."
    return [(n, x) for n, x in module.named_modules() if isinstance(x, nn.Linear) and not n.startswith(inside)]


def layers(model: Model, encoder: Encoder, count: int, rows: Rows, loss: Loss) -> list[int]:
    """Numbers of the `count` layers that stay, ascending."""
    blocks: Any = model.module.get_submodule(encoder.blocks)
    left = list(range(len(blocks)))
    while len(left) > count:

        def without(one: int, left: Sequence[int] = tuple(left)) -> float:
            with _skipped([blocks[i] for i in range(len(blocks)) if i == one or i not in left]):
                return measure(model, rows, loss)["loss"]

        left.remove(min(left, key=without))
    return left


@contextmanager
def _skipped(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """As long as this lasts, these layers give their inputs on."""
    hooks = [block.register_forward_hook(lambda layer, given, out: given[0]) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def channels(model: Model, encoder: Encoder, rows: Rows, loss: Loss) -> dict[tuple[str, int | None], Tensor]:
    """Of each kind of channel, and of each layer where layers have their own: float (channels,), of heads (heads,).

    Kinds: hidden, pooled (what the classifier is given), matched (queries and keys), carried (values), feed_forward.
    """
    import torch
    from torch import nn

    module = model.module.eval().requires_grad_(True)
    blocks: Any = module.get_submodule(encoder.blocks)
    seen: list[tuple[str, int | None, Tensor]] = []
    score: dict[tuple[str, int | None], Tensor] = {}

    def given(layer: nn.Module, kind: str, number: int | None) -> Any:
        return layer.register_forward_pre_hook(lambda _, x: seen.append((kind, number, x[0])))

    def answered(layer: nn.Module, kind: str, number: int | None) -> Any:
        return layer.register_forward_hook(lambda _, x, out: seen.append((kind, number, out)))

    hooks = [given(outside(module, encoder)[-1][1], "pooled", None)]
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm) and layer.normalized_shape == (encoder.sizes["hidden"],):
            hooks.append(answered(layer, "hidden", None))
    for at, block in enumerate(blocks):
        hooks.append(answered(block.get_submodule(encoder.query), "matched", at))
        hooks.append(given(block.get_submodule(encoder.attended), "carried", at))
        hooks.append(given(block.get_submodule(encoder.returned), "feed_forward", at))
    inputs, labels = {name: torch.from_numpy(x) for name, x in rows.inputs.items()}, torch.from_numpy(rows.labels)
    try:
        for some in torch.split(torch.arange(len(rows)), BATCH):
            seen.clear()
            logits = model.logits(trimmed({name: x[some] for name, x in inputs.items()}))
            value = model.task.loss(logits, labels[some], unsmoothed(loss)) * len(some)
            slopes = torch.autograd.grad(value, [x for _, _, x in seen])
            for (kind, number, x), slope in zip(seen, slopes, strict=True):
                change = (x.detach() * slope).flatten(1, -2).sum(1) if x.ndim > 2 else x.detach() * slope
                if kind == "carried":
                    of_heads = change.view(len(some), encoder.sizes["heads"], -1).sum(2).abs().sum(0)
                    score["heads", number] = score.get(("heads", number), 0) + of_heads
                score[kind, number] = score.get((kind, number), 0) + change.abs().sum(0)
    finally:
        for hook in hooks:
            hook.remove()
    return score
