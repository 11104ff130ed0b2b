"""pretrain: train what is before the classifier on the images alone; labels are not looked at.

contrastive is SimCLR (Chen et al., arXiv 2002.05709): two views of each image, compared in a projection that is
dropped afterwards, any family with features. masked is SimMIM (Xie et al., arXiv 2111.09886): guess the pixels under
masked patches, families in params.MASKABLE. The classifier stays what it was in the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from components.data import Rows
from components.errors import TrainingError
from components.fit import Batch, fit
from components.model import Context, Maskable, Model
from components.params import Contrastive, CrossEntropy, Fit, Masked, Pretrain

if TYPE_CHECKING:
    from torch import Tensor, nn

Figures = dict[str, "Tensor"]  # `loss`, and what else is measured, each the mean over the rows
Trial = tuple["nn.Module", Callable[["Tensor"], Figures]]  # what is trained, and figures of pixel_values


def run(model: Model, params: Pretrain, context: Context) -> tuple[Model, dict[str, float]]:
    module, figures = METHODS[params.method.kind](model, params.method, context)

    def objective(batch: Batch) -> Tensor:
        return figures(_pixels(model, batch.inputs))["loss"]

    def validate() -> dict[str, float]:
        return _measure(model, module, figures, context, params.fit.batch_size)

    # fit reads the loss section only where it measures validation itself.
    loop = Fit(**dict(params.fit), loss=CrossEntropy(kind="cross_entropy", label_smoothing=0.0))
    fit(replace(model, module=module), loop, context, objective, validate)
    model.module.eval()
    return model, {f"pretrain_{name}": value for name, value in validate().items()}


def _pixels(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    return model.task.preprocess(inputs, model.spec)["pixel_values"]


def _raw(rows: Rows) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(x) for name, x in rows.inputs.items()}


def _measure(
    model: Model, module: nn.Module, figures: Callable[[Tensor], Figures], context: Context, batch_size: int
) -> dict[str, float]:
    """Figures on validation, each time with the same views or masks; torch's random state stays as it is."""
    import torch

    rows = context.rows("validation")
    device = next(module.parameters()).device
    totals: dict[str, float] = {}
    was_training = module.training
    module.eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(context.seed)
        for pixels in torch.split(_pixels(model, _raw(rows)), batch_size):
            for name, value in figures(pixels.to(device)).items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(pixels)
    module.train(was_training)
    return {name: total / len(rows) for name, total in totals.items()}


def contrastive(model: Model, params: Contrastive, context: Context) -> Trial:
    """`loss` is NT-Xent; `alignment` the share of views whose nearest other view is their image's."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, normalize

    pixels = _pixels(model, _raw(context.rows("train")))
    least, greatest = pixels.amin((0, 2, 3), keepdim=True), pixels.amax((0, 2, 3), keepdim=True)
    spread = (greatest - least).clamp_min(1e-6)
    change = nn.Sequential(*(_view(view, pixels.shape[2:]) for view in params.views))
    with torch.no_grad():
        width = model.family.features(model.module.eval(), {"pixel_values": pixels[:2]}).shape[1]
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, params.projection))
    trained = nn.ModuleDict({"encoder": model.module, "projection": head})

    def figures(pixels: Tensor) -> Figures:
        low, span = least.to(pixels.device), spread.to(pixels.device)
        views = torch.cat([change((pixels - low) / span) for _ in range(2)]) * span + low
        features = model.family.features(trained["encoder"], {"pixel_values": views})
        codes = normalize(trained["projection"](features).float())
        itself = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
        likeness = (codes @ codes.T / params.temperature).masked_fill(itself, -torch.inf)
        other = torch.arange(len(codes), device=codes.device).roll(len(pixels))
        return {
            "loss": cross_entropy(likeness, other),
            "alignment": (likeness.argmax(1) == other).float().mean(),
        }

    return trained, figures


def _view(params: Any, size: Sequence[int]) -> nn.Module:
    """One random change, drawn for each image by itself, of images whose pixels are from 0 to 1."""
    from kornia import augmentation
    from torch import nn

    wanted: list[Any] = []
    if params.kind == "flip":
        if params.horizontal:
            wanted.append(augmentation.RandomHorizontalFlip(p=params.probability))
        if params.vertical:
            wanted.append(augmentation.RandomVerticalFlip(p=params.probability))
    elif params.kind == "crop":
        wanted.append(augmentation.RandomCrop(tuple(size), padding=params.padding))
    elif params.kind == "resized_crop":
        wanted.append(augmentation.RandomResizedCrop(tuple(size), scale=(params.least_area, 1.0)))
    elif params.kind == "rotate":
        wanted.append(augmentation.RandomRotation(params.degrees, p=1.0))
    else:
        factors = (params.brightness, params.contrast, params.saturation, params.hue)
        wanted.append(augmentation.ColorJitter(*factors, p=1.0))
    return nn.Sequential(*wanted)


def masked(model: Model, params: Masked, context: Context) -> Trial:
    """`loss` is the mean absolute error of the normalised pixels under the mask."""
    import torch

    if not hasattr(model.family, "masked"):
        raise TrainingError(f"family {model.params.family} has no patches to mask; take method contrastive")
    trained, patches = cast(Maskable, model.family).masked(model.module, model.params)
    hidden = min(patches - 1, max(1, round(params.ratio * patches)))

    def figures(pixels: Tensor) -> Figures:
        order = torch.rand(len(pixels), patches).argsort(1)
        return {"loss": trained(pixels, (order < hidden).to(pixels.device)).loss}

    return trained, figures


METHODS: dict[str, Callable[[Model, Any, Context], Trial]] = {"contrastive": contrastive, "masked": masked}
