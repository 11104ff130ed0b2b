"""distill: the parent teaches a smaller model (Hinton et al., arXiv 1503.02531).

Loss: weight * T^2 * KL(teacher || student at temperature T) + (1 - weight) * the task's loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.fit import Batch, answers, fit, supervised
from components.model import Context, Model
from components.params import Distill

if TYPE_CHECKING:
    from torch import Tensor


def run(model: Model, params: Distill, context: Context) -> tuple[Model, dict[str, float]]:
    import torch
    from torch.nn.functional import kl_div, log_softmax

    student = context.create(params.model)
    model.module.eval()
    # What the parent says of each row is asked once, unless the rows are changed from epoch to epoch.
    known = None if params.fit.augment else answers(model, context.rows("train"))
    labelled = supervised(student, params.fit)

    def objective(batch: Batch) -> Tensor:
        with torch.no_grad():
            taught = model.logits(batch.inputs) if known is None else known[batch.index]
        taught = log_softmax(taught / params.temperature, dim=1)
        said = log_softmax(student.logits(batch.inputs) / params.temperature, dim=1)
        soft = kl_div(said, taught, reduction="batchmean", log_target=True) * params.temperature**2
        return params.weight * soft + (1 - params.weight) * labelled(batch)

    fit(student, params.fit, context, objective)
    return student, {"parameters_kept": student.parameters() / model.parameters()}
