"""distill: the parent teaches a smaller model (Hinton et al., arXiv 1503.02531).

Loss: weight * T^2 * KL(teacher || student at temperature T) + (1 - weight) * the task's loss, and for `hidden` and
`attention` what components/distillation.py says, each times its weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from components import distillation
from components.errors import TrainingError
from components.fit import Batch, answers, fit, measure
from components.model import Context, Model
from components.params import Distill

if TYPE_CHECKING:
    from torch import Tensor, nn


def run(model: Model, params: Distill, context: Context) -> tuple[Model, dict[str, float]]:
    import torch

    student = context.create(params.model)
    model.module.eval()
    if params.copy_layers is not None:
        distillation.copy(student, model, params.copy_layers)
    theirs, ours = _watched(student, model, params)
    projections = _projections(student, model, theirs, ours, params, context)
    # What the parent says of each row is asked once, unless the rows are changed from epoch to epoch or more than its
    # answers is asked for.
    known = None if params.fit.augment or theirs else answers(model, context.rows("train"))

    def objective(batch: Batch) -> Tensor:
        with distillation.watched(theirs) as taught_inside, torch.no_grad():
            taught = model.logits(batch.inputs) if known is None else known[batch.index]
        with distillation.watched(ours) as said_inside:
            logits = student.logits(batch.inputs)
        soft = distillation.soft_loss(logits, taught, params.temperature)
        labelled = student.task.loss(logits, batch.labels, params.fit.loss)
        loss = params.weight * soft + (1 - params.weight) * labelled
        if theirs:
            loss = loss + _inside(said_inside, taught_inside, projections, batch, params)
        return loss

    fit(
        replace(student, module=_around(student.module, projections)) if len(projections) else student,
        params.fit,
        context,
        objective,
        lambda: measure(student, context.rows("validation"), params.fit.loss),
    )
    student.module.eval()
    return student, {"parameters_kept": student.parameters() / model.parameters()}


def _watched(student: Model, teacher: Model, params: Distill) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The layers of the teacher and of the student that are compared, by the same names."""
    theirs: dict[str, nn.Module] = {}
    ours: dict[str, nn.Module] = {}
    if params.hidden:
        above, below = (distillation.layers(one, "hidden") for one in (teacher, student))
        distillation.check("hidden.layers", params.hidden.layers, above, below)
        for number, (block, layer) in enumerate(zip(below, [0, *params.hidden.layers], strict=True)):
            theirs[f"hidden{number}"], ours[f"hidden{number}"] = above[layer], block
    if params.attention:
        theirs |= distillation.attending(distillation.layers(teacher, "attention")[-1])
        ours |= distillation.attending(distillation.layers(student, "attention")[-1])
    return theirs, ours


def _projections(
    student: Model,
    teacher: Model,
    theirs: Mapping[str, nn.Module],
    ours: Mapping[str, nn.Module],
    params: Distill,
    context: Context,
) -> nn.ModuleDict:
    """From the student's width to the teacher's, for hidden states where they differ."""
    import torch
    from torch import nn

    made = nn.ModuleDict()
    if not theirs:
        return made
    few = {name: torch.from_numpy(x) for name, x in context.rows("validation").head(2).inputs.items()}
    shapes = []
    student.module.eval()
    for model, parts in ((teacher, theirs), (student, ours)):
        with distillation.watched(parts) as seen, torch.no_grad():
            model.logits(few)
        shapes.append({name: x.shape for name, x in seen.items()})
    for name, (_, tokens, width) in shapes[0].items():
        _, our_tokens, our_width = shapes[1][name]
        if tokens != our_tokens:
            raise TrainingError(
                f"hidden, attention: the teacher makes {tokens} tokens of a row and the student {our_tokens}; let them "
                "cut it alike (vit: the same patch_size)"
            )
        heads = params.attention.heads if params.attention else 1
        if not name.startswith("hidden"):
            if width % heads or our_width % heads:
                raise TrainingError(
                    f"attention.heads: {heads} does not divide the widths {width} (teacher) and {our_width} (student)"
                )
        elif width != our_width:
            made[name] = nn.Linear(our_width, width, bias=False)
    return made


def _inside(
    said: Mapping[str, Tensor],
    taught: Mapping[str, Tensor],
    projections: nn.ModuleDict,
    batch: Batch,
    params: Distill,
) -> Tensor:
    """The weighted losses of `hidden`, summed over layers, and of `attention`, mean over its three relations."""
    import torch

    mask = batch.inputs.get("attention_mask")
    some = next(iter(taught.values()))
    real = torch.ones(some.shape[:2]) if mask is None else mask.float()
    loss = some.new_zeros((), dtype=torch.float32)
    for name, ours in said.items():
        if name.startswith("hidden") and params.hidden:
            near = projections[name](ours) if name in projections else ours
            loss = loss + params.hidden.weight * distillation.hidden_loss(near, taught[name], real)
        elif params.attention:
            apart = distillation.relation_loss(ours, taught[name], real, params.attention.heads)
            loss = loss + params.attention.weight * apart / 3
    return loss


def _around(student: nn.Module, projections: nn.ModuleDict) -> nn.Module:
    """The student, and what is trained with it and dropped afterwards."""
    from torch import nn

    class Taught(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.projections = student, projections

        def get_base_model(self) -> nn.Module:
            """As peft's: what fit looks into for blocks."""
            return self.student

    return Taught()
