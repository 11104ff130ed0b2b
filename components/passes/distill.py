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
    from torch.nn.functional import kl_div, log_softmax

    student = context.create(params.model)
    taught = log_softmax(answers(model, context.rows("train")) / params.temperature, dim=1)
    labelled = supervised(student, params.fit)

    def objective(batch: Batch) -> Tensor:
        said = log_softmax(student.logits(batch.inputs) / params.temperature, dim=1)
        soft = kl_div(said, taught[batch.index], reduction="batchmean", log_target=True) * params.temperature**2
        return params.weight * soft + (1 - params.weight) * labelled(batch)

    fit(student, params.fit, context, objective)
    return student, {"parameters_kept": student.parameters() / model.parameters()}
