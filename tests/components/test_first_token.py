"""The last layer on the first token alone: the same logits and gradients, in training only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from components import first_token
from components.fit import Batch, supervised
from components.model import Model
from components.params import Fit
from tests.components import texts

SHORTENED = sorted(first_token.ARCHITECTURES & set(texts.CONFIGS))


def loss(model: Model) -> torch.Tensor:
    some = texts.rows("train", 16)
    inputs = {name: torch.from_numpy(x) for name, x in some.inputs.items()}
    labels = torch.from_numpy(some.labels)
    return supervised(model, Fit.model_validate(texts.FIT))(Batch(inputs, labels, torch.arange(16)))


def undropped(architecture: str) -> Model:
    model = texts.model(architecture)
    for layer in model.module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    model.module.train()
    return model


def seen(model: Model) -> list[int]:
    """How many tokens of each row the last layer's feed-forward part is given, call by call."""
    lengths: list[int] = []
    layer: Any = model.module
    layer.base_model.encoder.layer[-1].intermediate.register_forward_pre_hook(
        lambda _, x: lengths.append(x[0].shape[1])
    )
    return lengths


@pytest.mark.parametrize("architecture", SHORTENED)
def test_loss_and_gradients_are_those_of_all_tokens(architecture: str) -> None:
    whole, short = undropped(architecture), undropped(architecture)
    lengths = seen(short)
    plain = loss(whole)
    plain.backward()  # type: ignore[no-untyped-call]
    with first_token.alone(short.module):
        alone = loss(short)
        alone.backward()  # type: ignore[no-untyped-call]
    assert lengths == [1]
    torch.testing.assert_close(alone, plain, rtol=0, atol=1e-6)
    for name, parameter in short.module.named_parameters():
        wanted = whole.module.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6, msg=name)


def test_an_answer_and_what_comes_after_see_every_token() -> None:
    model = undropped("bert")
    lengths = seen(model)
    with first_token.alone(model.module):
        model.module.eval()
        loss(model)
    model.module.train()
    loss(model)
    assert lengths == [texts.WIDTH, texts.WIDTH]


@pytest.mark.parametrize("architecture", sorted(set(texts.CONFIGS) - first_token.ARCHITECTURES))
def test_other_architectures_stay_as_they_are(architecture: str) -> None:
    model = undropped(architecture)
    with first_token.alone(model.module):
        assert torch.isfinite(loss(model))
