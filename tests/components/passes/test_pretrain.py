from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import assemble, fit, params
from components.data import Rows, Spec, read_rows
from components.errors import ParamsError, TrainingError
from components.fit import answers
from components.model import Context, Model
from components.passes import pretrain

VIT = {
    "family": "vit",
    "patch_size": 2,
    "hidden_size": 16,
    "layers": 1,
    "heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "dropout": 0.1,
}
MLP = {"family": "mlp", "hidden": [64, 32], "dropout": 0.1}
LOOP: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "optimizer": {"kind": "adamw", "lr": 0.003, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_share": 0.1},
    "clip_norm": 1.0,
    "patience": 5,
}
CONTRASTIVE: dict[str, Any] = {
    "kind": "contrastive",
    "views": [
        {"kind": "flip", "horizontal": True, "vertical": True, "probability": 0.1},
        {"kind": "crop", "padding": 1},
        {"kind": "resized_crop", "least_area": 0.5},
        {"kind": "rotate", "degrees": 10.0},
        {"kind": "colour", "brightness": 0.2, "contrast": 0.2, "saturation": 0.0, "hue": 0.0},
    ],
    "temperature": 0.2,
    "projection": 16,
}
MASKED: dict[str, Any] = {"kind": "masked", "ratio": 0.5}


class Run:
    """A model to pretrain, and a context that keeps what is logged."""

    def __init__(self, prepared: Path, spec: Spec, out: Path, family: Mapping[str, Any] = MLP) -> None:
        torch.manual_seed(0)
        self.logged: list[dict[str, float]] = []
        self.model: Model = assemble.create(params.check_family(family), spec)
        self.context = Context(
            rows=lambda split: read_rows(prepared, split, spec).head(192),
            create=lambda made: assemble.create(made, spec),
            seed=3,
            out=out,
            parent_sha256="",
            log=lambda metrics, step: self.logged.append({"epoch": step, **metrics}),
        )

    def pretrain(self, method: Mapping[str, Any], **changes: Any) -> dict[str, float]:
        wanted = params.check_variant({"from": "init", "pass": "pretrain", "method": method, "fit": LOOP | changes})
        model, figures = pretrain.run(self.model, wanted, self.context)  # type: ignore[arg-type]
        assert model is self.model
        return figures


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in model.module.state_dict().items()}


METHODS = [pytest.param(CONTRASTIVE, MLP, id="contrastive"), pytest.param(MASKED, VIT, id="masked")]


@pytest.mark.parametrize(("method", "family"), METHODS)
def test_it_learns_and_leaves_the_classifier_alone(
    method: dict[str, Any], family: dict[str, Any], prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    run = Run(prepared, spec, tmp_path, family)
    before = weights(run.model)
    mild = method | {"views": CONTRASTIVE["views"][-2:]} if method is CONTRASTIVE else method
    figures = run.pretrain(mild, epochs=8)
    assert figures["pretrain_loss"] < 0.8 * run.logged[0]["validation_loss"]
    assert figures["pretrain_loss"] == pytest.approx(min(row["validation_loss"] for row in run.logged))
    if method is CONTRASTIVE:
        assert figures["pretrain_alignment"] > 0.3  # by chance: 1 / 63
    changed = {name for name, x in weights(run.model).items() if not torch.equal(x, before[name])}
    classifier = {"7.weight", "7.bias"} if family is MLP else {"classifier.weight", "classifier.bias"}
    assert changed == set(before) - classifier
    assert not run.model.module.training


@pytest.mark.parametrize(("method", "family"), METHODS)
def test_labels_are_not_looked_at(
    method: dict[str, Any], family: dict[str, Any], prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    def permuted(split: str) -> Rows:
        rows = read_rows(prepared, split, spec).head(192)
        return replace(rows, labels=np.random.default_rng(0).permutation(rows.labels))

    one = Run(prepared, spec, tmp_path / "a", family)
    figures = one.pretrain(method)
    two = Run(prepared, spec, tmp_path / "b", family)
    two.context = replace(two.context, rows=permuted)
    assert two.pretrain(method) == figures
    assert one.logged == two.logged
    assert all(map(torch.equal, weights(one.model).values(), weights(two.model).values()))


@pytest.mark.parametrize(("method", "family"), METHODS)
def test_a_killed_run_resumes_to_the_same_bits(
    method: dict[str, Any],
    family: dict[str, Any],
    prepared: Path,
    spec: Spec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    whole = Run(prepared, spec, tmp_path / "whole", family)
    whole.pretrain(method)

    killed = Run(prepared, spec, tmp_path / "killed", family)

    class Killed(BaseException):
        pass

    def log(metrics: Mapping[str, float], step: int) -> None:
        if step == 2:
            raise Killed

    killed.context = replace(killed.context, log=log)
    with pytest.raises(Killed):
        killed.pretrain(method)

    resumed = Run(prepared, spec, tmp_path / "killed", family)
    resumed.pretrain(method)
    assert resumed.logged == whole.logged[2:]
    assert all(map(torch.equal, weights(resumed.model).values(), weights(whole.model).values()))


def test_the_best_epoch_by_its_own_loss_is_kept(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    run = Run(prepared, spec, tmp_path)
    optimizer = {"kind": "sgd", "lr": 5.0, "weight_decay": 0.0, "momentum": 0.9}
    figures = run.pretrain(CONTRASTIVE, epochs=12, patience=2, optimizer=optimizer, clip_norm=100.0)
    losses = [row["validation_loss"] for row in run.logged]
    assert losses.index(min(losses)) == len(losses) - 3 < 9  # patience, by this loss
    assert figures["pretrain_loss"] == pytest.approx(min(losses))


def test_validation_does_not_touch_the_random_state(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    run = Run(prepared, spec, tmp_path)
    wanted: Any = params.check_variant({"from": "init", "pass": "pretrain", "method": CONTRASTIVE, "fit": LOOP})
    module, figures = pretrain.contrastive(run.model, wanted.method, run.context)
    before = torch.get_rng_state()
    seen = [pretrain._measure(module, figures, run.context, 32) for _ in range(2)]
    assert seen[0] == seen[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_colour_images_take_all_of_the_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def rows(split: str) -> Rows:
        images = rng.uniform(0, 255, (32, 8, 8, 3)).astype(np.float32)
        return Rows(np.arange(32), {"image": images}, np.zeros(32, np.int64))

    statistics = {"mean": [127.0] * 3, "std": [70.0] * 3}
    spec = Spec(
        task="image_classification",
        inputs={"image": "float32"},
        vocabulary=None,
        shape=[8, 8, 3],
        classes=["a", "b"],
        statistics=statistics,
    )
    model = assemble.create(params.check_family(MLP), spec)
    colour = {"kind": "colour", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    wanted: Any = params.check_variant(
        {"from": "init", "pass": "pretrain", "method": CONTRASTIVE | {"views": [colour]}, "fit": LOOP}
    )
    context = Context(rows, lambda made: model, 0, tmp_path, "", lambda metrics, step: None)
    _, figures = pretrain.run(model, wanted, context)
    assert np.isfinite(figures["pretrain_loss"])


def test_the_pretrained_encoder_answers_as_transformers_own_masked_model(
    prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    """The encoder is shared, not copied: what masked modelling trained is what the classifier sees."""
    run = Run(prepared, spec, tmp_path, VIT)
    around, patches = run.model.family.masked(run.model.module, run.model.params)  # type: ignore[attr-defined]
    assert patches == 16
    pixels = torch.rand(3, 1, 8, 8)
    around.eval()
    run.model.module.eval()
    with torch.no_grad():
        own = run.model.family.features(run.model.module, {"pixel_values": pixels})
        torch.testing.assert_close(around.vit(pixels).last_hidden_state[:, 0], own)
    shared = {id(p) for p in run.model.module.vit.parameters()}  # type: ignore[union-attr, operator]
    assert shared <= {id(p) for p in around.parameters()}


@pytest.mark.parametrize(("method", "family"), [(CONTRASTIVE, VIT), (MASKED, VIT)])
def test_what_saves_memory_or_time_works_here_too(
    method: dict[str, Any], family: dict[str, Any], prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    plain, saving = (Run(prepared, spec, tmp_path / name, family | {"dropout": 0.0}) for name in "ab")
    torch.manual_seed(0)
    plain.pretrain(method, epochs=1)
    torch.manual_seed(0)
    saving.pretrain(method, epochs=1, checkpoint_activations=True)
    assert all(map(torch.equal, weights(plain.model).values(), weights(saving.model).values()))
    figures = saving.pretrain(method, epochs=1, accumulate=2, precision="bf16")
    assert np.isfinite(figures["pretrain_loss"])


def test_a_family_without_patches_says_so(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="family mlp has no patches to mask"):
        Run(prepared, spec, tmp_path).pretrain(MASKED)


def test_a_train_after_it_starts_from_what_it_learned(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    run = Run(prepared, spec, tmp_path, VIT)
    run.pretrain(MASKED, epochs=1)
    assemble.save(run.model, tmp_path / "saved")
    again = assemble.load(tmp_path / "saved")
    rows = read_rows(prepared, "validation", spec)
    assert torch.equal(answers(again, rows), answers(run.model, rows))


# --- what params refuse ----------------------------------------------------------------------------


def refused(root: Path, variants: Mapping[str, Any], **changes: Any) -> list[str]:
    from ruamel.yaml import YAML

    raw = copy.deepcopy(YAML(typ="safe").load((root / "params.yaml").read_text("utf-8"))) | changes
    base = raw["variants"]["base"]
    raw["variants"] = {"base": base, **{name: {"fit": LOOP, **variant} for name, variant in variants.items()}}
    raw["variants"] |= {name: base | {"from": "pre"} for name in raw["variants"] if name == "after"}
    try:
        params.check(raw)
    except ParamsError as error:
        return error.errors
    return []


def test_a_pretrain_may_start_from_init_and_a_train_from_it(root: Path) -> None:
    variants = {"pre": {"from": "init", "pass": "pretrain", "method": CONTRASTIVE}, "after": {}}
    assert refused(root, variants) == []


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        (MASKED, {"init": {"model": MLP}}, "pre.method.kind: masked is for families vit, this one is mlp"),
        (CONTRASTIVE, {"init": {"model": {"family": "perceptron"}}}, "pre.pass: pretrain trains what is before"),
        (
            CONTRASTIVE | {"views": [{**CONTRASTIVE["views"][4], "hue": 0.1}]},
            {},
            "pre.method.views.0: saturation and hue need images of 3 channels",
        ),
        (CONTRASTIVE | {"views": []}, {}, "pre.method.views: "),
        ({"kind": "jigsaw"}, {}, "pre.method.kind: must be one of 'contrastive', 'masked'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    method: dict[str, Any], changes: dict[str, Any], said: str, root: Path
) -> None:
    errors = refused(root, {"pre": {"from": "init", "pass": "pretrain", "method": method}}, **changes)
    assert any(said in line for line in errors), errors


def test_labels_have_no_say_in_params_either(root: Path) -> None:
    loop = LOOP | {"loss": {"kind": "mse"}}
    errors = refused(root, {"pre": {"from": "init", "pass": "pretrain", "method": CONTRASTIVE, "fit": loop}})
    assert errors == ["variants.pre.fit.loss: unknown key; remove it or correct its spelling"]


def test_an_untrained_classifier_neither_teaches_nor_leads(root: Path) -> None:
    from ruamel.yaml import YAML

    raw = YAML(typ="safe").load((root / "params.yaml").read_text("utf-8"))
    pre = {"from": "init", "pass": "pretrain", "method": CONTRASTIVE, "fit": LOOP}
    raw["variants"] = {"pre": pre, **raw["variants"]}
    raw["variants"]["distilled"]["from"] = "pre"
    with pytest.raises(ParamsError) as caught:
        params.check(raw)
    said = "\n".join(caught.value.errors)
    assert "variants.pre: all others are compared with the first variant" in said
    assert "variants.distilled.pass: distill needs a trained parent, and the classifier of pre is untrained" in said
