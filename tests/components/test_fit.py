from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from components import assemble, fit, optimizers
from components.data import Spec, read_rows
from components.errors import TrainingError
from components.fit import answers, supervised
from components.model import Context, Model
from components.params import AdamW, CrossEntropy, Family, Fit, Mlp, Resnet, Schedule, Sgd, Vit, check_variant
from components.passes import distill


def fit_params(**changes: Any) -> Fit:
    values: dict[str, Any] = {
        "epochs": 6,
        "batch_size": 32,
        "optimizer": AdamW(kind="adamw", lr=0.003, weight_decay=0.01),
        "schedule": Schedule(kind="cosine", warmup_share=0.1),
        "loss": CrossEntropy(kind="cross_entropy", label_smoothing=0.0),
        "clip_norm": 1.0,
        "patience": 50,
    }
    return Fit(**{**values, **changes})


MLP = Mlp(family="mlp", hidden=[32], dropout=0.2)
PLAIN = Mlp(family="mlp", hidden=[16], dropout=0.0)
RESNET = Resnet(family="resnet", stem="cifar", widths=[8, 16], blocks=[1, 2], dropout=0.2)
VIT = Vit(family="vit", patch_size=4, hidden_size=16, layers=2, heads=2, head_dim=8, intermediate_size=32, dropout=0.1)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 0.003},
    "adam": {"lr": 0.003},
    "sgd": {"lr": 0.1, "momentum": 0.9},
    "nag": {"lr": 0.1, "momentum": 0.9},
    "rmsprop": {"lr": 0.003, "momentum": 0.5, "alpha": 0.9},
    "adagrad": {"lr": 0.03},
}
AUGMENT = [
    {"kind": "flip", "horizontal": True, "vertical": False, "probability": 0.5},
    {"kind": "crop", "padding": 1},
    {"kind": "rotate", "degrees": 10.0},
    {"kind": "colour", "brightness": 0.2, "contrast": 0.2, "saturation": 0.0, "hue": 0.0},
    {"kind": "mixup", "alpha": 0.2},
    {"kind": "cutmix", "alpha": 1.0},
]


class Run:
    """A model, and a context that keeps what is logged."""

    def __init__(self, prepared: Path, spec: Spec, out: Path, family: Family = MLP) -> None:
        torch.manual_seed(0)
        self.logged: list[dict[str, float]] = []
        self.model: Model = assemble.create(family, spec)
        self.context = Context(
            rows=lambda split: read_rows(prepared, split, spec),
            create=lambda params: assemble.create(params, spec),
            seed=3,
            out=out,
            parent_sha256="",
            log=self.log,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append({"epoch": step, **metrics})

    def fit(self, params: Fit) -> Run:
        fit.fit(self.model, params, self.context, supervised(self.model, params))
        return self


@pytest.fixture
def run(prepared: Path, spec: Spec, tmp_path: Path) -> Run:
    return Run(prepared, spec, tmp_path)


@pytest.mark.parametrize(
    "optimizer",
    [AdamW(kind="adamw", lr=0.003, weight_decay=0.01), Sgd(kind="sgd", lr=0.1, weight_decay=0.0, momentum=0.9)],
)
@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_it_learns(run: Run, optimizer: AdamW | Sgd, kind: Any) -> None:
    run.fit(fit_params(optimizer=optimizer, schedule=Schedule(kind=kind, warmup_share=0.2)))
    assert run.logged[-1]["validation_accuracy"] > 0.7
    assert run.logged[-1]["loss"] < run.logged[0]["loss"]


def test_the_same_seed_gives_the_same_bits(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    one, two = (Run(prepared, spec, tmp_path / name).fit(fit_params()) for name in "ab")
    rows = read_rows(prepared, "validation", spec)
    assert torch.equal(answers(one.model, rows), answers(two.model, rows))


def weights(run: Run) -> torch.Tensor:
    return torch.cat([x.double().flatten() for x in run.model.module.state_dict().values()])


class Killed(BaseException):
    pass


def kill_at(run: Run, epoch: int) -> None:
    def log(metrics: Mapping[str, float], step: int) -> None:
        if step == epoch:
            raise Killed

    object.__setattr__(run.context, "log", log)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.hardening("A5", "killed in an epoch, with the newest checkpoint whole and damaged")
def test_a_killed_run_resumes_to_the_same_bits(
    prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    whole = Run(prepared, spec, tmp_path / "whole").fit(fit_params())
    killed = Run(prepared, spec, tmp_path / "killed")
    kill_at(killed, 4)
    with pytest.raises(Killed):
        killed.fit(fit_params())
    newest = max((tmp_path / "killed" / "checkpoints").glob("*.safetensors"))
    if damaged:  # falls back to the checkpoint before it
        data = bytearray(newest.read_bytes())
        data[-1] ^= 1
        newest.write_bytes(data)

    resumed = Run(prepared, spec, tmp_path / "killed").fit(fit_params())
    assert resumed.logged[0]["epoch"] == (3 if damaged else 4)
    assert resumed.logged == whole.logged[int(resumed.logged[0]["epoch"]) :]
    assert torch.equal(weights(resumed), weights(whole))
    assert not (tmp_path / "killed" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("family", "optimizer", "changes"),
    [
        *((MLP, kind, {"augment": AUGMENT}) for kind in OPTIMIZERS),
        (MLP, "adamw", {"precision": "bf16"}),
        (RESNET, "adamw", {"ema_decay": 0.9}),
        (RESNET, "sgd", {"augment": AUGMENT, "accumulate": 3, "batch_size": 50, "checkpoint_activations": True}),
        (
            RESNET,
            "adamw",
            {
                "precision": "bf16",
                "groups": [
                    {"match": "stem", "freeze": True},
                    {"match": "stages.0", "lr_factor": 0.1, "weight_decay": 0.5},
                    {"match": "dropout", "dropout": 0.5},
                ],
            },
        ),
        (VIT, "adamw", {"augment": AUGMENT[:4], "checkpoint_activations": True, "batch_size": 128}),
    ],
)
@pytest.mark.hardening("A5", "killed in an epoch, every optimizer and kind of randomness")
def test_whatever_is_random_or_counted_resumes_to_the_same_bits(
    prepared: Path,
    spec: Spec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: Family,
    optimizer: str,
    changes: dict[str, Any],
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    made = {"kind": optimizer, "weight_decay": 0.01, **OPTIMIZERS[optimizer]}
    params = fit_params(epochs=3, optimizer=made, **changes)
    whole = Run(prepared, spec, tmp_path / "whole", family).fit(params)
    killed = Run(prepared, spec, tmp_path / "killed", family)
    kill_at(killed, 2)
    with pytest.raises(Killed):
        killed.fit(params)
    torch.rand(17)  # a new process has another random state
    resumed = Run(prepared, spec, tmp_path / "killed", family).fit(params)
    assert resumed.logged == whole.logged[2:]
    assert torch.equal(weights(resumed), weights(whole))


def test_the_best_epoch_is_kept_and_patience_ends_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.fit(fit_params(epochs=60, patience=2, optimizer=AdamW(kind="adamw", lr=0.05, weight_decay=0.0)))
    losses = [row["validation_loss"] for row in run.logged]
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 3
    kept = fit.measure(run.model, run.context.rows("validation"), fit_params().loss)["loss"]
    assert kept == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.hardening("F33", "weights that are NaN")
def test_nan_stops_the_run_and_says_what_to_do(run: Run) -> None:
    next(run.model.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 0, step 0.*lower fit.optimizer.lr"):
        run.fit(fit_params())


@pytest.mark.hardening("F33", "learning rate 1e3")
def test_divergence_stops_the_run(run: Run) -> None:
    sgd = Sgd(kind="sgd", lr=1000.0, weight_decay=0.0, momentum=0.9)
    with pytest.raises(TrainingError, match=r"diverged|became"):
        run.fit(fit_params(optimizer=sgd, schedule=Schedule(kind="linear", warmup_share=0.9), clip_norm=1e6, epochs=30))


def test_nothing_to_train_is_said(run: Run) -> None:
    for parameter in run.model.module.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match="every layer is frozen"):
        run.fit(fit_params())


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_learning_rate_rises_then_never_rises_again(kind: Any) -> None:
    factors = [optimizers.learning_rate(Schedule(kind=kind, warmup_share=0.25), step, 100) for step in range(100)]
    assert factors[:25] == sorted(factors[:25])
    assert math.isclose(max(factors), 1)
    assert factors[25:] == sorted(factors[25:], reverse=True)
    assert (factors[-1] < 0.02) == (kind != "constant")


def test_accumulated_batches_step_as_one_big_batch_does(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    """360 rows: the last step has 10, in batches of 7 and 3."""
    made: dict[str, Any] = {"optimizer": Sgd(kind="sgd", lr=0.1, weight_decay=0.0, momentum=0.9), "epochs": 2}
    big = Run(prepared, spec, tmp_path / "big", PLAIN).fit(fit_params(batch_size=35, **made))
    small = Run(prepared, spec, tmp_path / "small", PLAIN).fit(fit_params(batch_size=7, accumulate=5, **made))
    assert torch.allclose(weights(small), weights(big), atol=2e-6)
    for one, other in zip(small.logged, big.logged, strict=True):
        assert one == pytest.approx(other, abs=1e-5)  # the learning rate too: its schedule counts steps


@pytest.mark.parametrize("accumulate", [None, 3])
def test_a_single_row_left_over_trains_with_the_batch_before_it(
    prepared: Path, spec: Spec, tmp_path: Path, accumulate: int | None
) -> None:
    """This residual network sees one pixel at its end, and a batch of one row has no variance."""
    family = Resnet(family="resnet", stem="imagenet", widths=[8, 8, 8], blocks=[1, 1, 1], dropout=0.0)
    run, seen = Run(prepared, spec, tmp_path, family), []
    rows = run.context.rows
    object.__setattr__(run.context, "rows", lambda split: rows(split).head(61))
    run.model.module.register_forward_hook(lambda layer, given, out: seen.append(len(out)) if layer.training else None)
    run.fit(fit_params(epochs=1, batch_size=20, accumulate=accumulate))
    assert seen == [20, 20, 21]
    last = 0.003 if accumulate else 0.003 * 0.25  # cosine: the first of one step, the third of three
    assert run.logged[-1]["learning_rate"] == pytest.approx(last)


@pytest.mark.parametrize("family", [RESNET, VIT], ids=["resnet", "vit"])
def test_computing_activations_again_changes_nothing(
    prepared: Path, spec: Spec, tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.utils.checkpoint

    again: list[object] = []
    kept = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: again.append(a) or kept(*a, **k))
    sgd = Sgd(kind="sgd", lr=0.05, weight_decay=0.0, momentum=0.9)
    made: dict[str, Any] = {"epochs": 2, "batch_size": 64, "optimizer": sgd}
    plain = Run(prepared, spec, tmp_path / "plain", family).fit(fit_params(**made))
    assert not again
    saving = Run(prepared, spec, tmp_path / "saving", family).fit(fit_params(checkpoint_activations=True, **made))
    assert family is VIT or len(again) == 3 * 2 * 6  # blocks, epochs, steps
    assert torch.allclose(weights(saving), weights(plain), atol=1e-6)
    assert saving.logged == [pytest.approx(row, abs=1e-6) for row in plain.logged]
    assert all("forward" not in vars(layer) for layer in saving.model.module.modules())


def test_a_family_without_blocks_cannot_compute_activations_again(run: Run) -> None:
    with pytest.raises(TrainingError, match="families that are: resnet"):
        run.fit(fit_params(checkpoint_activations=True))


def test_augmented_training_learns_and_differs(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    crop = [{"kind": "crop", "padding": 1}, {"kind": "mixup", "alpha": 0.2}]
    plain = Run(prepared, spec, tmp_path / "plain").fit(fit_params())
    changed = Run(prepared, spec, tmp_path / "changed").fit(fit_params(augment=crop, epochs=30))
    assert changed.logged[0]["loss"] != plain.logged[0]["loss"]
    assert changed.logged[-1]["validation_accuracy"] > 0.7


def test_frozen_layers_keep_their_bits_and_others_learn_at_their_own_rate(
    prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    groups = [{"match": "stem", "freeze": True}, {"match": "stages.0", "lr_factor": 0.0}]
    params = fit_params(epochs=1, batch_size=90, groups=groups)
    run = Run(prepared, spec, tmp_path, RESNET)
    before = {name: x.clone() for name, x in run.model.module.state_dict().items()}
    run.fit(params)
    same = {name for name, x in run.model.module.state_dict().items() if torch.equal(x, before[name])}
    assert {name for name in before if name.startswith("stem")} <= same, "running statistics too"
    assert {name for name, _ in run.model.module.named_parameters() if name.startswith("stages.0")} <= same
    assert "stages.0.0.inside.1.running_mean" not in same
    assert not {"stages.1.0.inside.0.weight", "classifier.weight", "classifier.bias"} & same


def test_a_teacher_answers_what_the_student_sees(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    """Mixed images: the parent's answers to them, not to the rows they were made from."""
    run = Run(prepared, spec, tmp_path)
    seen: list[tuple[torch.Size, bool]] = []
    run.model.module.register_forward_hook(lambda layer, given, out: seen.append((out.shape, layer.training)))
    values = {"from": "base", "pass": "distill", "model": PLAIN.model_dump(), "temperature": 2.0, "weight": 0.5}
    changed = fit_params(epochs=30, batch_size=90, augment=[{"kind": "mixup", "alpha": 1.0}])
    variant = check_variant({**values, "fit": changed.model_dump(exclude_none=True)})
    distill.run(run.model, variant, run.context)
    assert seen == [((90, 10), False)] * 4 * 30
    assert all(p.grad is None for p in run.model.module.parameters())
    assert run.logged[-1]["loss"] < run.logged[0]["loss"]
