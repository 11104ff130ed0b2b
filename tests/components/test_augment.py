"""What each augmentation does to images whose result can be told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from components.augment import AUGMENTATIONS, Change, augmentation
from components.errors import TrainingError
from components.params import Augmentation

CLASSES = 5
FLIP = {"kind": "flip", "horizontal": True, "vertical": False, "probability": 1.0}
COLOUR = {"kind": "colour", "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
ALL: list[dict[str, Any]] = [
    {**FLIP, "vertical": True, "probability": 0.5},
    {"kind": "crop", "padding": 2},
    {"kind": "resized_crop", "least_area": 0.3},
    {"kind": "rotate", "degrees": 30.0},
    {**COLOUR, "brightness": 0.4, "contrast": 0.4},
    {"kind": "mixup", "alpha": 0.4},
    {"kind": "cutmix", "alpha": 1.0},
]


def made(images: torch.Tensor, *params: dict[str, Any]) -> Change:
    several: list[Augmentation] = TypeAdapter(list[Augmentation]).validate_python(list(params))
    torch.manual_seed(0)
    return augmentation(several, {"image": images}, CLASSES)


def numbers(count: int, *shape: int) -> torch.Tensor:
    """Images in the range -5 to 20."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)) * 25 - 5


LABELS = torch.arange(40) % CLASSES


def test_every_kind_is_tried_here() -> None:
    assert {one["kind"] for one in ALL} == set(AUGMENTATIONS)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
def test_flip(shape: tuple[int, ...], horizontal: bool, vertical: bool) -> None:
    images = numbers(40, *shape)
    axes = [axis for axis, wanted in ((2, horizontal), (1, vertical)) if wanted]
    always, labels = made(images, {**FLIP, "horizontal": horizontal, "vertical": vertical})(images, LABELS)
    assert torch.allclose(always, images.flip(axes), atol=1e-4)
    assert torch.equal(labels, LABELS)
    some, _ = made(images, {**FLIP, "probability": 0.5})(images, LABELS)
    flipped = [bool((a - b).abs().max() > 1) for a, b in zip(some, images, strict=True)]
    assert 8 < sum(flipped) < 32  # image by image


def test_crop_takes_a_window_of_the_image_in_a_border_of_the_least_value() -> None:
    images, padding = numbers(40, 6, 9), 2
    windows, _ = made(images, {"kind": "crop", "padding": padding})(images, LABELS)
    border = torch.nn.functional.pad(images, [padding] * 4, value=float(images.min()))
    found = set()
    for image, window in zip(border, windows, strict=True):
        at = [
            (y, x)
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            if torch.allclose(image[y : y + 6, x : x + 9], window, atol=1e-4)
        ]
        assert at
        found.add(at[0])
    assert len(found) > 10


def test_rotate_turns_around_the_centre_and_fills_with_the_least_value() -> None:
    images = torch.full((40, 9, 9), 7.0)
    images[0, 0, 0] = -3.0  # the least of the split
    images[:, 4, 4] = 20.0
    turned, _ = made(images, {"kind": "rotate", "degrees": 45.0})(images, LABELS)
    assert torch.allclose(turned[:, 4, 4], images[:, 4, 4], atol=1e-3)
    assert turned.amin() == pytest.approx(-3.0, abs=1e-3)
    assert (turned[1:] < 6).any(), "corners are turned out of the image"


def test_brightness_multiplies_from_the_least_value_on() -> None:
    images = numbers(40, 6, 9) * 0.5
    images[0, 0, :2] = torch.tensor([-5.0, 20.0])
    brighter, _ = made(images, {**COLOUR, "brightness": 0.2})(images, LABELS)
    factors = ((brighter + 5) / (images + 5))[:, 1, 1:]
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-3)
    assert factors.min() >= 0.799
    assert factors.max() <= 1.201
    assert factors.std() > 0.05


@pytest.mark.parametrize("changed", [{"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.3}])
def test_colour_changes_images_in_colour(changed: dict[str, float]) -> None:
    images = numbers(8, 6, 9, 3)
    other, _ = made(images, {**COLOUR, **changed})(images, LABELS[:8])
    assert ((other - images).abs().amax((1, 2, 3)) > 0.1).sum() >= 6
    if "hue" in changed:  # the greatest of red, green and blue stays
        assert torch.allclose(other.amax(3), images.amax(3), atol=1e-3)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (6, 9, 4)])
@pytest.mark.parametrize("changed", ["saturation", "hue"])
def test_what_needs_colours_is_refused_for_others(shape: tuple[int, ...], changed: str) -> None:
    with pytest.raises(TrainingError, match=f"these images have {[*shape, 1][2]} channel.*set both to 0"):
        made(numbers(4, *shape), {**COLOUR, changed: 0.1})


def test_what_is_no_image_is_refused() -> None:
    (flip,) = TypeAdapter(list[Augmentation]).validate_python([FLIP])
    with pytest.raises(TrainingError, match="for images, and the inputs are input_ids, attention_mask"):
        augmentation([flip], {"input_ids": numbers(4, 6), "attention_mask": numbers(4, 6)}, CLASSES)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_labels_mix_as_the_pixels_do(kind: str, alpha: float) -> None:
    images = LABELS.float().view(-1, 1, 1).expand(-1, 7, 9).clone()  # each pixel is its image's class
    mixed, labels = made(images, {"kind": kind, "alpha": alpha})(images, LABELS)
    assert torch.allclose(mixed.mean((1, 2)), labels @ torch.arange(CLASSES).float(), atol=1e-4)
    assert torch.allclose(labels.sum(1), torch.ones(40), atol=1e-5)
    assert ((labels.amax(1) < 0.99).sum() > (5 if alpha == 0.1 else 20)).item()
    if kind == "cutmix":
        assert torch.isin(mixed.round(decimals=3), images.unique()).all()


@settings(max_examples=40)
@given(
    count=st.integers(1, 9),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.sampled_from([None, 1, 3]),
    flat=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_batch_keeps_its_shape_and_range(
    count: int, height: int, width: int, channels: int | None, flat: bool, seed: int
) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    images = torch.full((count, *shape), 3.0) if flat else numbers(count, *shape)
    change = made(images, *ALL)
    torch.manual_seed(seed)
    changed, labels = change(images, LABELS[:count])
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert torch.isfinite(changed).all()
    if not flat:
        assert changed.min() >= images.min() - 1e-3
        assert changed.max() <= images.max() + 1e-3
    assert torch.allclose(labels.sum(1), torch.ones(count), atol=1e-4)
    torch.manual_seed(seed)
    again, _ = change(images, LABELS[:count])
    assert torch.equal(changed, again)
