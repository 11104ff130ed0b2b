"""Families of convolutions fit the published sizes, and images of any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components import assemble, params
from components.data import Spec
from tests.contracts.test_members import TINY

CONVOLUTIONS = ("lenet", "alexnet", "vgg", "resnet")


def spec(*shape: int) -> Spec:
    statistics = {"mean": [0.0] * (shape[2] if len(shape) == 3 else 1), "std": [1.0] * (shape[2:] or (1,))[0]}
    return Spec(
        task="image_classification",
        inputs={"image": "float32"},
        vocabulary=None,
        shape=[*shape],
        classes=[str(i) for i in range(10)],
        statistics=statistics,
    )


@pytest.mark.parametrize("family", CONVOLUTIONS)
@settings(max_examples=15)
@given(st.integers(4, 40), st.integers(4, 40), st.sampled_from([(), (1,), (3,)]))
def test_an_image_of_any_size_gets_an_answer(family: str, height: int, width: int, channels: tuple[int, ...]) -> None:
    model = assemble.create(params.check_family({"family": family, **TINY[family]}), spec(height, width, *channels))
    model.module.eval()
    with torch.no_grad():
        assert model.logits({"image": torch.zeros(2, height, width, *channels)}).shape == (2, 10)


@pytest.mark.parametrize(
    ("family", "shape", "parameters"),
    [
        # 61,706 is what LeNet-5 has when all its second feature maps see all the first.
        ({"family": "lenet", "widths": [6, 16], "hidden": [120, 84]}, (28, 28), 61_706),
        # VGG-16 of arXiv 1409.1556, table 2: 138 M with biases and 1000 classes; here by its convolutions alone.
        (
            {
                "family": "vgg",
                "stages": [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3],
                "hidden": [],
                "dropout": 0.0,
            },
            (32, 32, 3),
            14_710_464 + 2 * 4_224 + 512 * 10 + 10,
        ),
        # ResNet-20 of arXiv 1512.03385, table 6: 0.27 M.
        (
            {"family": "resnet", "stem": "cifar", "widths": [16, 32, 64], "blocks": [3, 3, 3], "dropout": 0.0},
            (32, 32, 3),
            272_474,
        ),
    ],
)
def test_published_sizes(family: dict[str, Any], shape: tuple[int, ...], parameters: int) -> None:
    assert assemble.create(params.check_family(family), spec(*shape)).parameters() == parameters


def test_a_coupled_stage_is_cut_once_to_whole_multiples() -> None:
    """Half the channels everywhere: a quarter of the weights, not less, though each stage has many layers."""
    from components.passes import prune

    family = {"family": "resnet", "stem": "cifar", "widths": [16, 32], "blocks": [2, 2], "dropout": 0.0}
    model = assemble.create(params.check_family(family), spec(8, 8))
    wanted = params.Prune.model_construct(ratio=0.6, round_to=4)
    cut = prune._cut(model, wanted, {"image": torch.zeros(2, 8, 8)})
    assert isinstance(cut.params, params.Resnet)
    assert cut.params.widths == [8, 12] and cut.params.inner_widths == [[8, 8], [12, 12]]


@given(st.integers(1, 4096), st.floats(0.01, 0.99), st.integers(1, 64))
def test_what_is_kept_is_a_whole_multiple_near_what_was_asked(channels: int, ratio: float, round_to: int) -> None:
    from components.narrowing import stays

    left = stays(channels, ratio, round_to)
    assert 1 <= left <= channels
    assert abs(left - (1 - ratio) * channels) <= max(1, round_to / 2) + 1e-6
    assert left % round_to == 0 or left < round_to or left == channels
