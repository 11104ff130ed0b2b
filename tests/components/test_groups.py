"""What fit.groups does to single layers, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from components import groups
from components.data import Spec
from components.errors import TrainingError
from components.families import vit
from components.params import Group, Vit


def module() -> nn.Sequential:
    layers = [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)]
    return nn.Sequential(nn.Sequential(*layers), nn.Linear(4, 2))


def applied(model: nn.Module, *given: dict[str, Any]) -> tuple[list[dict[str, Any]], list[nn.Module]]:
    of, still = groups.apply(model, [Group(**one) for one in given])
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return groups.for_optimizer(trained, of, 0.1), still


def settings(model: nn.Module, parts: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: (part["lr_factor"], part["weight_decay"]) for part in parts for p in part["params"]}


def test_without_groups_weight_decay_is_for_matrices_only() -> None:
    model = module()
    assert settings(model, applied(model)[0]) == {
        "0.0.weight": (1.0, 0.1),
        "0.0.bias": (1.0, 0.0),
        "0.1.weight": (1.0, 0.0),
        "0.1.bias": (1.0, 0.0),
        "1.weight": (1.0, 0.1),
        "1.bias": (1.0, 0.0),
    }


def test_the_first_group_that_fits_a_name_or_a_module_around_it_counts() -> None:
    model = module()
    parts, still = applied(
        model,
        {"match": "*.bias", "weight_decay": 0.5},
        {"match": "0.?", "lr_factor": 0.1},
        {"match": "*", "lr_factor": 3.0},
    )
    assert settings(model, parts) == {
        "0.0.weight": (0.1, 0.1),
        "0.0.bias": (1.0, 0.5),
        "0.1.weight": (0.1, 0.0),
        "0.1.bias": (1.0, 0.5),
        "1.weight": (3.0, 0.1),
        "1.bias": (1.0, 0.5),
    }
    assert still == []


def test_what_is_frozen_is_not_trained_and_its_statistics_stay() -> None:
    model = module()
    parts, still = applied(model, {"match": "0", "freeze": True, "dropout": 0.0})
    assert set(settings(model, parts)) == {"1.weight", "1.bias"}
    assert still == [model[0][1]]
    assert model[0][2].p == 0.0


def test_dropout_covers_attention() -> None:
    spec = Spec(
        task="image_classification",
        inputs={"image": "float32"},
        vocabulary=None,
        shape=[8, 8],
        classes=["0", "1"],
        statistics={"mean": [0], "std": [1]},
    )
    sizes: dict[str, Any] = {"hidden_size": 8, "layers": 1, "heads": 1, "head_dim": 8, "intermediate_size": 8}
    model = vit.build(Vit(family="vit", patch_size=4, dropout=0.1, **sizes), spec)
    groups.apply(model, [Group(match="vit.layers", dropout=0.3)])
    said = {getattr(layer, name) for layer, name in groups._dropouts(model).values()}
    assert said == {0.1, 0.3}
    assert {layer.attention_dropout for layer in model.modules() if hasattr(layer, "attention_dropout")} == {0.3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            [{"match": "clasifier", "lr_factor": 0.1}],
            r"groups.0.match: 'clasifier' fits no trained parameter; .*1.weight",
        ),
        ([{"match": "1", "dropout": 0.1}], r"groups.0.match: '1' fits no dropout layer; there are: 0.2"),
        (
            [{"match": "*", "freeze": True}, {"match": "1", "lr_factor": 2.0}],
            r"groups.1.match: earlier groups fit every",
        ),
    ],
)
def test_a_group_that_changes_nothing_is_refused(given: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        applied(module(), *given)


def test_an_adapter_goes_by_the_names_of_the_model_it_is_on() -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(module(), LoraConfig(r=2, target_modules=r"0\.0|1"))
    parts, _ = applied(adapted, {"match": "1", "lr_factor": 0.5})
    factors = {name: factor for name, (factor, _) in settings(adapted, parts).items()}
    assert {name.split(".")[2] for name, factor in factors.items() if factor == 0.5} == {"1"}
    assert len(factors) == 4
