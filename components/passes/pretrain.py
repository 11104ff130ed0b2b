"""pretrain: train what is before the classifier on the images alone; labels are not looked at.

contrastive is SimCLR (Chen et al., arXiv 2002.05709): two views of each image, compared in a projection that is
dropped afterwards, any family with features. masked is SimMIM (Xie et al., arXiv 2111.09886): guess the pixels under
masked patches, families in params.MASKABLE. The classifier stays what it was in the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from components.augment import augmentation
from components.data import Rows
from components.errors import TrainingError
from components.fit import Batch, fit
from components.model import Context, Maskable, Model
from components.params import Contrastive, CrossEntropy, Fit, Masked, Pretrain

if TYPE_CHECKING:
    from torch import Tensor, nn

Figures = dict[str, "Tensor"]  # `loss`, and what else is measured, each the mean over the rows
Trial = tuple["nn.Module", Callable[[Mapping[str, "Tensor"]], Figures]]  # what is trained; raw inputs to figures


def run(model: Model, params: Pretrain, context: Context) -> tuple[Model, dict[str, float]]:
    module, figures = METHODS[params.method.kind](model, params.method, context)

    def objective(batch: Batch) -> Tensor:
        return figures(batch.inputs)["loss"]

    def validate() -> dict[str, float]:
        return _measure(module, figures, context, params.fit.batch_size)

    # fit reads the loss section only where it measures validation itself.
    loop = Fit(**dict(params.fit), loss=CrossEntropy(kind="cross_entropy", label_smoothing=0.0))
    fit(replace(model, module=module), loop, context, objective, validate)
    model.module.eval()
    return model, {f"pretrain_{name}": value for name, value in validate().items()}


def _raw(rows: Rows) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(x) for name, x in rows.inputs.items()}


def _measure(
    module: nn.Module, figures: Callable[[Mapping[str, Tensor]], Figures], context: Context, batch_size: int
) -> dict[str, float]:
    """Figures on validation, each time with the same views or masks; torch's random state stays as it is."""
    import torch

    rows = context.rows("validation")
    inputs = _raw(rows)
    totals: dict[str, float] = {}
    was_training = module.training
    module.eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(context.seed)
        for index in torch.split(torch.arange(len(rows)), batch_size):
            for name, value in figures({name: x[index] for name, x in inputs.items()}).items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(index)
    module.train(was_training)
    return {name: total / len(rows) for name, total in totals.items()}


def contrastive(model: Model, params: Contrastive, context: Context) -> Trial:
    """`loss` is NT-Xent; `alignment` the share of views whose nearest other view is their image's."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, normalize

    class Projected(nn.Module):
        def __init__(self, encoder: nn.Module, projection: nn.Module) -> None:
            super().__init__()
            self.encoder, self.projection = encoder, projection

        def get_base_model(self) -> nn.Module:
            """As peft's: what fit looks into for blocks."""
            return self.encoder

        def forward(self, raw: Mapping[str, Tensor]) -> Tensor:
            pixels = model.task.preprocess(raw, model.spec)
            codes: Tensor = self.projection(model.family.features(self.encoder, pixels))
            return codes

    inputs = _raw(context.rows("train"))
    change = augmentation(params.views, inputs, len(model.spec.classes))
    with torch.no_grad():
        few = model.task.preprocess({name: x[:2] for name, x in inputs.items()}, model.spec)
        width = model.family.features(model.module.eval(), few).shape[1]
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, params.projection))
    trained = Projected(model.module, head)

    def figures(raw: Mapping[str, Tensor]) -> Figures:
        images = raw["image"]
        views = torch.cat([change(images, torch.zeros(len(images)))[0] for _ in range(2)])
        codes = normalize(trained({"image": views}).float())
        with torch.autocast("cpu", enabled=False):  # bf16 would blur which of many views is nearest
            likeness = codes @ codes.T / params.temperature
        likeness = likeness.masked_fill(torch.eye(len(codes), dtype=torch.bool), -torch.inf)
        other = torch.arange(len(codes)).roll(len(images))
        return {
            "loss": cross_entropy(likeness, other),
            "alignment": (likeness.argmax(1) == other).float().mean(),
        }

    return trained, figures


def masked(model: Model, params: Masked, context: Context) -> Trial:
    """`loss` is the mean absolute error of the normalised pixels under the mask."""
    import torch

    if not hasattr(model.family, "masked"):
        raise TrainingError(f"family {model.params.family} has no patches to mask; take method contrastive")
    trained, patches = cast(Maskable, model.family).masked(model.module, model.params)
    hidden = min(patches - 1, max(1, round(params.ratio * patches)))

    def figures(raw: Mapping[str, Tensor]) -> Figures:
        pixels = model.task.preprocess(raw, model.spec)["pixel_values"]
        order = torch.rand(len(pixels), patches).argsort(1)
        return {"loss": trained(pixels, order < hidden).loss}

    return trained, figures


METHODS: dict[str, Callable[[Model, Any, Context], Trial]] = {"contrastive": contrastive, "masked": masked}
