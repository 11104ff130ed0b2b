"""Take heads, feed-forward channels, hidden channels and layers out of a transformer's encoder, dense afterwards.

What stays is loaded into a model that is built narrower, so that it reloads by construction. The attention is always
as wide as the hidden states, which no config can say otherwise: heads alone take their share of the hidden width with
them, and the hidden width alone makes every head narrower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from components import importance
from components.data import Rows
from components.errors import TrainingError
from components.model import Context, Encoder, Model, Narrowable
from components.params import Loss, Prune

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 512  # of the training split, whose gradients are asked for
LAYER_ROWS = 256  # asked once for every layer that may go next


@dataclass(frozen=True)
class Kept:
    """What stays: numbers of channels, ascending; in lists for every layer of the model, all of one length."""

    layers: list[int]
    heads: int
    hidden: Tensor
    pooled: Tensor  # of what the classifier is given, as many as hidden
    matched: list[Tensor]  # of queries and keys, head by head, as many as hidden
    carried: list[Tensor]  # of values, likewise
    feed_forward: list[Tensor]


def stays(channels: int, share: float, round_to: int) -> int:
    """How many channels stay without this share: a multiple of round_to where as many stay, at least one."""
    wanted = (1 - share) * channels
    multiple = round_to if wanted >= round_to else 1
    return min(channels, max(1, multiple * round(wanted / multiple)))


def narrow(model: Model, params: Prune, context: Context) -> tuple[Model, dict[str, int]]:
    """What stays, and its layers, heads, hidden and feed-forward width.

    Raises TrainingError for an architecture that cannot, and for shares that leave everything as it is.
    """
    sizes = _sizes(model, params)
    if params.layers is not None:
        some = context.rows("train").head(LAYER_ROWS)
        layers = importance.layers(model, _encoder(model), sizes["layers"], some, params.fit.loss)
        model = cut(model, replace(everything(model), layers=layers))
    if params.heads is not None or params.hidden is not None or params.feed_forward is not None:
        model = cut(model, _chosen(model, sizes, context.rows("train").head(ROWS), params.fit.loss))
    return model, {f"{key}_left": count for key, count in sizes.items()}


def everything(model: Model) -> Kept:
    import torch

    has = _encoder(model).sizes
    all_hidden, layers = torch.arange(has["hidden"]), has["layers"]
    return Kept(
        layers=list(range(layers)),
        heads=has["heads"],
        hidden=all_hidden,
        pooled=all_hidden,
        matched=[all_hidden] * layers,
        carried=[all_hidden] * layers,
        feed_forward=[torch.arange(has["feed_forward"])] * layers,
    )


def cut(model: Model, kept: Kept) -> Model:
    """A model with what stays of this one's weights."""
    sizes = {
        "layers": len(kept.layers),
        "heads": kept.heads,
        "hidden": len(kept.hidden),
        "feed_forward": len(kept.feed_forward[0]),
    }
    params = cast(Narrowable, model.family).narrowed(model.module, model.params, sizes)
    module = model.family.build(params, model.spec)
    module.load_state_dict(_weights(model, kept))
    return replace(model, params=params, module=module.eval())


def _encoder(model: Model) -> Encoder:
    return cast(Narrowable, model.family).encoder(model.module)


def _sizes(model: Model, params: Prune) -> dict[str, int]:
    """What is to stay."""
    has = _encoder(model).sizes
    sizes = dict(has)
    for key in ("layers", "heads", "feed_forward"):
        if (share := getattr(params, key)) is not None:
            sizes[key] = stays(has[key], share, params.round_to if key == "feed_forward" else 1)
    most = sizes["heads"] * (has["hidden"] // has["heads"])
    sizes["hidden"] = most
    if params.hidden is not None:
        wanted, both = (1 - params.hidden) * has["hidden"], math.lcm(sizes["heads"], params.round_to)
        multiple = both if wanted >= both else sizes["heads"]  # every head is as wide
        sizes["hidden"] = min(most, multiple * max(1, round(wanted / multiple)))
    for key, count in sizes.items():
        if getattr(params, key) is not None and count == has[key]:
            raise TrainingError(
                f"{key}: a share of {getattr(params, key)} takes nothing of {has[key]} away; raise it, lower round_to, "
                "or take it out"
            )
    return sizes


def _chosen(model: Model, sizes: Mapping[str, int], rows: Rows, loss: Loss) -> Kept:
    """The most important of everything, as many as `sizes` say."""
    import torch

    encoder = _encoder(model)
    score = importance.channels(model, encoder, rows, loss)
    layers = list(range(encoder.sizes["layers"]))
    heads, width = encoder.sizes["heads"], sizes["hidden"] // sizes["heads"]

    def best(found: Tensor, count: int) -> Tensor:
        return found.argsort(descending=True, stable=True)[:count].sort().values

    def inside(found: Tensor, those: Tensor) -> Tensor:
        size = len(found) // heads
        return torch.cat([head * size + best(found.view(heads, size)[head], width) for head in those.tolist()])

    staying = [best(score["heads", i], sizes["heads"]) for i in layers]
    return Kept(
        layers=layers,
        heads=sizes["heads"],
        hidden=best(score["hidden", None], sizes["hidden"]),
        pooled=best(score["pooled", None], sizes["hidden"]),
        matched=[inside(score["matched", i], staying[i]) for i in layers],
        carried=[inside(score["carried", i], staying[i]) for i in layers],
        feed_forward=[best(score["feed_forward", i], sizes["feed_forward"]) for i in layers],
    )


def _weights(model: Model, kept: Kept) -> dict[str, Tensor]:
    """The narrower model's state dict."""
    from torch import nn

    encoder, module = _encoder(model), model.module
    *projecting, (pooling, _), (classifier, _) = importance.outside(module, encoder)
    outside = {
        **{name: (kept.hidden, None) for name, _ in projecting},
        pooling: (kept.pooled, kept.hidden),
        classifier: (None, kept.pooled),
    }
    scale = (len(kept.hidden) / kept.heads / (encoder.sizes["hidden"] / encoder.sizes["heads"])) ** 0.5
    state: dict[str, Tensor] = {}
    for name, layer in module.named_modules():
        to, factor = name, 1.0
        axes: tuple[Tensor | None, Tensor | None] = outside.get(name, (None, None))  # kept of the first, of the second
        if name.startswith(f"{encoder.blocks}."):
            number, _, part = name.removeprefix(f"{encoder.blocks}.").partition(".")
            at = int(number)
            if at not in kept.layers:
                continue
            to = f"{encoder.blocks}.{kept.layers.index(at)}.{part}"
            axes = {
                encoder.query: (kept.matched[at], kept.hidden),
                encoder.key: (kept.matched[at], kept.hidden),
                encoder.value: (kept.carried[at], kept.hidden),
                encoder.attended: (kept.hidden, kept.carried[at]),
                encoder.widened: (kept.feed_forward[at], kept.hidden),
                encoder.returned: (kept.hidden, kept.feed_forward[at]),
            }.get(part, axes)
            # Scores are divided by the root of a head's width, which may be less now.
            factor = scale if part == encoder.query else 1.0
        if isinstance(layer, nn.LayerNorm) and layer.normalized_shape == (encoder.sizes["hidden"],):
            axes = (kept.hidden, None)
        if isinstance(layer, nn.Embedding) and layer.embedding_dim == encoder.sizes["hidden"]:
            axes = (None, kept.hidden)
        for own, x in layer.named_parameters(recurse=False):
            y = x.detach()
            for axis, those in enumerate(axes[: y.ndim]):
                y = y if those is None else y.index_select(axis, those)
            state[f"{to}.{own}"] = y * factor
    return state
