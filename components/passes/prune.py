"""prune: take whole channels out by the dependency graph (DepGraph, Fang et al., arXiv 2301.12900), then recover.

The result is dense and smaller: layers with fewer channels, not zeros. Channels go by the L2 norm of all
weights that hang on them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from components.errors import TrainingError
from components.fit import fit, measure, supervised
from components.model import Context, Model
from components.params import Prune

if TYPE_CHECKING:
    from torch import Tensor


def run(model: Model, params: Prune, context: Context) -> tuple[Model, dict[str, float]]:
    import torch

    before = model.parameters()
    one = {name: torch.from_numpy(x) for name, x in context.rows("validation").head(2).inputs.items()}
    model = _cut(model, params, one)
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    cut = measure(model, context.rows("validation"), params.fit.loss)
    fit(model, params.fit, context, supervised(model, params.fit))
    return model, {
        "parameters_kept": model.parameters() / before,
        "validation_accuracy_before_recovery": cut["accuracy"],
    }


def kept(channels: int, params: Prune) -> int:
    """How many of a layer's channels stay: a multiple of round_to where as many stay, at least one."""
    wanted = (1 - params.ratio) * channels
    multiple = params.round_to if wanted >= params.round_to else 1
    return min(channels, max(1, multiple * round(wanted / multiple)))


def _cut(model: Model, params: Prune, raw: dict[str, Tensor]) -> Model:
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(
        model.module,
        example_inputs=model.task.preprocess(raw, model.spec),
        forward_fn=lambda module, inputs: model.family.logits(module, inputs),
    )
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    layers = model.family.prunable(model.module)
    if not layers:
        raise TrainingError(f"family {model.params.family} has no prunable layer: nothing of it can go but classes")
    done: set[Any] = set()
    for layer in layers:
        if layer in done:  # its outputs are added to another's: both lost the same channels
            continue
        channels = graph.get_out_channels(layer)
        pruner = graph.get_pruner_of_module(layer)
        group = graph.get_pruning_group(layer, pruner.prune_out_channels, idxs=list(range(channels)))
        done |= {dependency.layer for dependency, _ in group if graph.is_out_channel_pruning_fn(dependency.pruning_fn)}
        least = importance(group).argsort()[: channels - kept(channels, params)].tolist()
        if least:
            graph.get_pruning_group(layer, pruner.prune_out_channels, idxs=sorted(least)).prune()
    return replace(model, params=model.family.pruned(model.module, model.params))
