"""What is done to a training batch of images before the model sees it: a member a kind, in the order of fit.augment.

Members see float32 (batch, channels, height, width), the training split's least value as 0 and its greatest as 1, so
that borders are filled with the least. All they draw comes from torch's global random state, which checkpoints keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components import augment_text
from components.data import Spec
from components.errors import TrainingError
from components.params import Augmentation, Colour, Crop, Cutmix, Flip, Mixup, ResizedCrop, Rotate

if TYPE_CHECKING:
    from torch import Tensor

# Images and labels to images and labels: class numbers (batch,), or probabilities (batch, classes) once mixed.
Change = Callable[["Tensor", "Tensor"], tuple["Tensor", "Tensor"]]


def _alone(*layers: Any) -> Change:
    """Kornia's layers one after another; labels stay."""

    def change(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for layer in layers:
            images = layer(images)
        return images, labels

    return change


def _flip(params: Flip, shape: Sequence[int], classes: int) -> Change:
    from kornia.augmentation import RandomHorizontalFlip, RandomVerticalFlip

    kinds = [(params.horizontal, RandomHorizontalFlip), (params.vertical, RandomVerticalFlip)]
    return _alone(*(kind(p=params.probability) for wanted, kind in kinds if wanted))


def _crop(params: Crop, shape: Sequence[int], classes: int) -> Change:
    from kornia.augmentation import RandomCrop

    return _alone(RandomCrop((shape[1], shape[2]), padding=params.padding))


def _resized_crop(params: ResizedCrop, shape: Sequence[int], classes: int) -> Change:
    from kornia.augmentation import RandomResizedCrop

    return _alone(RandomResizedCrop((shape[1], shape[2]), scale=(params.least_area, 1.0)))


def _rotate(params: Rotate, shape: Sequence[int], classes: int) -> Change:
    from kornia.augmentation import RandomRotation

    return _alone(RandomRotation(params.degrees, p=1.0))


def _colour(params: Colour, shape: Sequence[int], classes: int) -> Change:
    from kornia.augmentation import ColorJitter  # multiplies by the brightness; ColorJiggle would add it

    if shape[0] != 3 and (params.saturation or params.hue):
        raise TrainingError(
            f"fit.augment: saturation and hue are those of red, green and blue, and these images have {shape[0]} "
            "channel(s); set both to 0"
        )
    return _alone(ColorJitter(params.brightness, params.contrast, params.saturation, params.hue))


def _probabilities(labels: Tensor, classes: int) -> Tensor:
    from torch.nn.functional import one_hot

    return one_hot(labels, classes).float() if labels.ndim == 1 else labels


def _beta(alpha: float, count: int) -> Tensor:
    import torch

    return torch.distributions.Beta(alpha, alpha).sample((count,))


def _mixup(params: Mixup, shape: Sequence[int], classes: int) -> Change:
    """Zhang et al., arXiv 1710.09412. Not kornia's, which draws the share evenly and leaves labels in pairs."""
    import torch

    def change(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        labels, partner = _probabilities(labels, classes), torch.randperm(len(images))
        share = _beta(params.alpha, len(images))
        images = torch.lerp(images[partner], images, share.view(-1, 1, 1, 1))
        return images, torch.lerp(labels[partner], labels, share.view(-1, 1))

    return change


def _cutmix(params: Cutmix, shape: Sequence[int], classes: int) -> Change:
    """Yun et al., arXiv 1905.04899: a box of the drawn area around a random pixel, cut at the border."""
    import torch

    height, width = shape[1:]

    def change(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        count = len(images)
        labels, partner = _probabilities(labels, classes), torch.randperm(count)
        side = (1 - _beta(params.alpha, count)).sqrt()

        def within(size: int) -> Tensor:
            """(count, size): which rows or columns the box covers."""
            centre, half = torch.randint(size, (count,)), (side * size / 2)
            low, high = (centre - half).round().view(-1, 1), (centre + half).round().view(-1, 1)
            return (torch.arange(size) >= low) & (torch.arange(size) < high)

        box = within(height).unsqueeze(2) & within(width).unsqueeze(1)
        kept = 1 - box.float().mean((1, 2))
        images = torch.where(box.unsqueeze(1), images[partner], images)
        return images, torch.lerp(labels[partner], labels, kept.view(-1, 1))

    return change


# Params, one image's (channels, height, width) and the number of classes to what is done.
AUGMENTATIONS: dict[str, Callable[[Any, Sequence[int], int], Change]] = {
    "flip": _flip,
    "crop": _crop,
    "resized_crop": _resized_crop,
    "rotate": _rotate,
    "colour": _colour,
    "mixup": _mixup,
    "cutmix": _cutmix,
}


def for_rows(
    params: Sequence[Augmentation], inputs: Mapping[str, Tensor], spec: Spec
) -> Callable[[Mapping[str, Tensor], Tensor], tuple[Mapping[str, Tensor], Tensor]]:
    """All of fit.augment for a batch of raw inputs, images or texts; `inputs` is the training split."""
    if spec.vocabulary is not None:
        return augment_text.augmentation(params, spec.vocabulary)
    change = augmentation(params, inputs, len(spec.classes))

    def augment(raw: Mapping[str, Tensor], labels: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        image, mixed = change(raw["image"], labels)
        return {"image": image}, mixed

    return augment


def augmentation(params: Sequence[Augmentation], inputs: Mapping[str, Tensor], classes: int) -> Change:
    """All of fit.augment for raw images (batch, height, width[, channels]); `inputs` is the training split.

    Raises TrainingError for data that cannot be augmented so.
    """
    import torch

    images = inputs.get("image")
    if images is None or len(inputs) > 1 or images.ndim not in (3, 4):
        raise TrainingError(f"fit.augment is for images, and the inputs are {', '.join(inputs)}; take it out")
    grey = images.ndim == 3
    shape = [1, *images.shape[1:]] if grey else [images.shape[3], *images.shape[1:3]]
    least, greatest = images.min(), images.max()
    span = greatest - least if greatest > least else torch.ones(())
    changes = [AUGMENTATIONS[one.kind](one, shape, classes) for one in params]

    @torch.no_grad()
    def augment(raw: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        batch = (raw - least) / span
        batch = batch.unsqueeze(1) if grey else batch.permute(0, 3, 1, 2)
        for change in changes:
            batch, labels = change(batch, labels)
        batch = batch.squeeze(1) if grey else batch.permute(0, 2, 3, 1)
        return batch * span + least, labels

    return augment
