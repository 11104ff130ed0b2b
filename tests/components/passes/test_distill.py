"""distill: what a student takes from inside of its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components import distillation, params
from components.errors import TrainingError
from components.model import Model
from components.passes import distill
from tests.components import texts

HIDDEN = {"weight": 1.0, "layers": [3]}
ATTENTION = {"weight": 1.0, "heads": 4}


def student(architecture: str = "bert", **changes: Any) -> dict[str, Any]:
    config = texts.CONFIGS[architecture] | ({"num_hidden_layers": 1} if architecture == "bert" else {}) | changes
    return {"family": "bert", "architecture": architecture, "config": config}


def run(out: Path, model: dict[str, Any], teacher: Model | None = None, **changes: Any) -> tuple[Model, list[float]]:
    losses: list[float] = []
    loop = texts.FIT | {"epochs": 2} | changes.pop("fit", {})
    raw = {"from": "base", "pass": "distill", "temperature": 2.0, "weight": 1.0, "model": model, "fit": loop}
    wanted: Any = params.check_variant(raw | changes)
    context = texts.context(out, lambda metrics, step: losses.append(metrics["loss"]))
    made, _ = distill.run(teacher or texts.model(initializer_range=0.2), wanted, context)
    return made, losses


@pytest.mark.parametrize(
    "inside", [{"hidden": HIDDEN}, {"attention": ATTENTION}, {"hidden": HIDDEN, "attention": ATTENTION}]
)
def test_the_student_comes_nearer_and_stays_plain(inside: dict[str, Any], tmp_path: Path) -> None:
    """Half as wide as its teacher: projections are learned and dropped."""
    made, losses = run(tmp_path, student(hidden_size=8), fit={"epochs": 10}, **inside)
    assert losses[-1] < losses[0]
    fresh = texts.model(num_hidden_layers=1, hidden_size=8)
    assert set(texts.weights(made)) == set(texts.weights(fresh))
    assert not [layer for layer in made.module.modules() if layer._forward_hooks]
    assert not made.module.training


def test_each_loss_counts_by_its_weight(tmp_path: Path) -> None:
    """One epoch at no learning rate to speak of: the loss is that of the first weights."""
    frozen = {"epochs": 1, "optimizer": texts.FIT["optimizer"] | {"lr": 1e-12}}

    def loss(**inside: Any) -> float:
        torch.manual_seed(0)
        quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return run(tmp_path, student(**quiet), fit=frozen, **inside)[1][0]

    soft = loss()
    for key, value in (("hidden", HIDDEN), ("attention", ATTENTION)):
        once, thrice = (loss(**{key: value | {"weight": weight}}) - soft for weight in (1.0, 3.0))
        assert once > 1e-4
        assert thrice == pytest.approx(3 * once, rel=1e-3)


def test_layers_start_from_the_teachers(tmp_path: Path) -> None:
    teacher = texts.model()
    wanted = student(num_hidden_layers=2)
    made = texts.context(tmp_path).create(params.check_family(wanted))
    distillation.copy(made, teacher, [1, 3])
    ours, theirs = texts.weights(made), texts.weights(teacher)
    for name, x in ours.items():
        source = name.replace("encoder.layer.1.", "encoder.layer.2.")
        assert torch.equal(x, theirs[source]), name


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        (
            student(hidden_size=8),
            {"copy_layers": [1]},
            "copy_layers: the student's layers are not those of the teacher",
        ),
        (student(), {"copy_layers": [4]}, "copy_layers: names layer 4, and the teacher has 3"),
        (student(), {"copy_layers": [1, 2]}, "copy_layers: has 2 entries, and the student 1 layers"),
        (student("distilbert"), {"copy_layers": [1, 2]}, "copy_layers: the teacher has no"),
        (student(), {"hidden": HIDDEN | {"layers": [9]}}, "hidden.layers: names layer 9, and the teacher has 3"),
        (student(), {"attention": ATTENTION | {"heads": 5}}, "attention.heads: 5 does not divide the widths 16"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=said):
        run(tmp_path, model, **changes)


@pytest.mark.parametrize("architecture", texts.CONFIGS)
def test_every_architecture_has_layers_that_attend(architecture: str) -> None:
    block = texts.model(architecture).blocks()[-1]
    assert {use: type(layer) for use, layer in distillation.attending(block).items()} == dict.fromkeys(
        ("query", "key", "value"), torch.nn.Linear
    )


def test_padding_has_no_part_in_the_losses() -> None:
    torch.manual_seed(0)
    ours, theirs, real = torch.randn(2, 5, 8), torch.randn(2, 5, 12), torch.tensor([[1.0] * 5, [1.0, 1.0, 0, 0, 0]])
    losses = []
    for noise in (0.0, 100.0):
        changed = ours + noise * (1 - real)[:, :, None]
        losses.append(
            (
                distillation.relation_loss(changed, theirs, real, 4),
                distillation.hidden_loss(changed, theirs[:, :, :8], real),
            )
        )
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[0][0] > 0 and distillation.relation_loss(ours, ours, real, 4).abs() < 1e-6


@pytest.mark.parametrize("inside", [{}, {"hidden": HIDDEN}])
def test_a_teacher_is_asked_once_where_its_answers_are_enough(inside: dict[str, Any], tmp_path: Path) -> None:
    teacher, calls = texts.model(), []
    teacher.module.register_forward_hook(lambda layer, given, out: calls.append(1))
    run(tmp_path, student(), teacher, fit={"epochs": 4}, **inside)
    assert len(calls) == (1 + 4 * 5 if inside else 1)


def test_layers_of_vit_teach_too(prepared: Path, spec: Any, tmp_path: Path) -> None:
    from components import assemble
    from tests.contracts.test_members import FIT, TINY, context, tiny

    small = {"family": "vit", **TINY["vit"], "layers": 1, "hidden_size": 8}
    raw = {"from": "base", "pass": "distill", "temperature": 2.0, "weight": 0.5, "model": small, "fit": FIT}
    wanted: Any = params.check_variant(raw | {"hidden": {"weight": 1.0, "layers": [2]}, "attention": ATTENTION})
    made, _ = distill.run(tiny("vit", spec), wanted, context(prepared, spec, tmp_path))
    assemble.save(made, tmp_path)
    mlp: Any = params.check_variant(raw | {"model": {"family": "mlp", **TINY["mlp"]}, "copy_layers": [1]})
    with pytest.raises(TrainingError, match="copy_layers: family mlp has no layers of tokens; families that do: vit"):
        distill.run(tiny("vit", spec), mlp, context(prepared, spec, tmp_path))
