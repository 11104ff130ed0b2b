"""prune: take whole channels, heads or layers out, then recover.

Channels go by the dependency graph (DepGraph, Fang et al., arXiv 2301.12900), those first whose weights have the least
L2 norm; parts of a transformer as components/narrowing.py says. The result is dense and smaller, not zeros.
With `distill` the unpruned parent teaches it; the loss is weight * soft targets' + (1 - weight) * the labels'.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from components import distillation, narrowing
from components.errors import TrainingError
from components.fit import Batch, Objective, answers, fit, measure, supervised
from components.model import Context, Model
from components.params import NARROWABLE, SHARES, Prune, SoftTargets

if TYPE_CHECKING:
    from torch import Tensor


def run(model: Model, params: Prune, context: Context) -> tuple[Model, dict[str, float]]:
    """Figures of a transformer say how many layers and heads are left, and how wide it is."""
    import torch

    before = model.parameters()
    left: dict[str, int] = {}
    parent = replace(model, module=copy.deepcopy(model.module).eval()) if params.distill else None
    if params.ratio is not None:
        one = {name: torch.from_numpy(x) for name, x in context.rows("validation").head(2).inputs.items()}
        model = _cut(model, params, one)
    elif model.params.family in NARROWABLE:
        model, left = narrowing.narrow(model, params, context)
    else:
        raise TrainingError(
            f"family {model.params.family}: has no {', '.join(SHARES)} that can go by themselves; give ratio instead"
        )
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    cut = measure(model, context.rows("validation"), params.fit.loss)
    taught = parent and params.distill and _taught(model, parent, params, params.distill, context)
    fit(model, params.fit, context, taught or supervised(model, params.fit))
    return model, {
        "parameters_kept": model.parameters() / before,
        "validation_accuracy_before_recovery": cut["accuracy"],
        **left,
    }


def _taught(model: Model, parent: Model, params: Prune, soft: SoftTargets, context: Context) -> Objective:
    import torch

    # What the parent says of each row is asked once, unless the rows are changed from epoch to epoch.
    known = None if params.fit.augment else answers(parent, context.rows("train"))

    def objective(batch: Batch) -> Tensor:
        with torch.no_grad():
            taught = parent.logits(batch.inputs) if known is None else known[batch.index]
        logits = model.logits(batch.inputs)
        from_labels = model.task.loss(logits, batch.labels, params.fit.loss)
        return soft.weight * distillation.soft_loss(logits, taught, soft.temperature) + (1 - soft.weight) * from_labels

    return objective


def _cut(model: Model, params: Prune, raw: dict[str, Tensor]) -> Model:
    """Takes `ratio` of the channels of every prunable layer."""
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
    ratio = params.ratio or 0.0
    done: set[Any] = set()
    for layer in layers:
        if layer in done:  # its outputs are added to another's: both lost the same channels
            continue
        channels = graph.get_out_channels(layer)
        pruner = graph.get_pruner_of_module(layer)
        group = graph.get_pruning_group(layer, pruner.prune_out_channels, idxs=list(range(channels)))
        done |= {dependency.layer for dependency, _ in group if graph.is_out_channel_pruning_fn(dependency.pruning_fn)}
        least = importance(group).argsort()[: channels - narrowing.stays(channels, ratio, params.round_to)].tolist()
        if least:
            graph.get_pruning_group(layer, pruner.prune_out_channels, idxs=sorted(least)).prune()
    return replace(model, params=model.family.pruned(model.module, model.params))
