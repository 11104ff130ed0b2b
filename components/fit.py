"""The one training loop. Same seed, data and thread count give the same weights, resumed or not."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data import Rows
from components.errors import TrainingError
from components.hashing import sha256_file
from components.model import Context, Model
from components.params import Fit, Loss, Optimizer, Schedule, unsmoothed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 10.0  # between checkpoints; they are written at the end of an epoch
DIVERGED = 10.0  # times the first step's loss (or 1, if that was less)


@dataclass(frozen=True)
class Batch:
    inputs: Mapping[str, Tensor]  # raw, first axis the batch
    labels: Tensor  # (batch,) class numbers
    index: Tensor  # (batch,) row numbers in the split


Objective = Callable[[Batch], "Tensor"]


def supervised(model: Model, params: Fit) -> Objective:
    """The task's own loss on the labels."""
    return lambda batch: model.task.loss(model.logits(batch.inputs), batch.labels, params.loss)


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Factor on the learning rate at a step: linear warm-up, then constant, linear or cosine to 0."""
    warmup = int(schedule.warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule.kind == "linear" else 1.0


# Params to the optimizer and what it takes besides the learning rate and the groups' weight decay.
OPTIMIZERS: dict[str, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    "adamw": lambda params: ("AdamW", {}),
    "adam": lambda params: ("Adam", {}),
    "sgd": lambda params: ("SGD", {"momentum": params.momentum}),
    "nag": lambda params: ("SGD", {"momentum": params.momentum, "nesterov": True}),
    "rmsprop": lambda params: ("RMSprop", {"momentum": params.momentum, "alpha": params.alpha}),
    "adagrad": lambda params: ("Adagrad", {}),
}


def _optimizer(params: Optimizer, trained: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Weight decay is for matrices only: biases and normalisation scales stay out of it."""
    import torch

    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    name, arguments = OPTIMIZERS[params.kind](params)
    made: torch.optim.Optimizer = getattr(torch.optim, name)(groups, lr=params.lr, **arguments)
    return made


def _tensors(rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
    import torch

    return {name: torch.from_numpy(x) for name, x in rows.inputs.items()}, torch.from_numpy(rows.labels)


def answers(model: Model, rows: Rows, batch_size: int = 256) -> Tensor:
    """Logits (rows, classes) in eval mode, without gradients."""
    import torch

    inputs, labels = _tensors(rows)
    was_training = model.module.training
    model.module.eval()
    with torch.no_grad():
        parts = [
            model.logits({name: x[start : start + batch_size] for name, x in inputs.items()})
            for start in range(0, len(labels), batch_size)
        ]
    model.module.train(was_training)
    return torch.cat(parts)


def measure(model: Model, rows: Rows, loss: Loss) -> dict[str, float]:
    """Loss, without label smoothing, and the task's metrics on these rows."""
    import torch

    logits = answers(model, rows)
    value = model.task.loss(logits, torch.from_numpy(rows.labels), unsmoothed(loss))
    return {"loss": float(value), **model.task.metrics(logits.numpy(), rows.labels)}


def fit(
    model: Model,
    params: Fit,
    context: Context,
    objective: Objective,
    validate: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Train `model` in place on the train split; it ends with the weights of the best validation loss.

    `validate` measures that `loss`, and what else is to be logged, and leaves torch's random state alone; left out,
    it is the task's loss on the labels.
    Raises TrainingError when the loss is NaN or has diverged, or when nothing can be trained.
    """
    import torch

    train, validation = context.rows("train"), context.rows("validation")
    trained = [p for p in model.module.parameters() if p.requires_grad]
    if not trained:
        raise TrainingError("no parameter can be trained: every layer is frozen")
    inputs, labels = _tensors(train)
    optimizer = _optimizer(params.optimizer, trained)
    steps = params.epochs * math.ceil(len(train) / params.batch_size)
    torch.manual_seed(context.seed)
    checkpoints = context.out / "checkpoints"
    progress = {"epoch": 0, "step": 0, "best_loss": math.inf, "best_epoch": -1, "first_loss": math.inf}
    best = {name: x.clone() for name, x in model.module.state_dict().items()}
    if restored := _restore(checkpoints, model.module, optimizer, best):
        progress = restored
        log.info("resumed after epoch %d of %d", progress["epoch"], params.epochs)
    saved_at = time.monotonic()

    for epoch in range(int(progress["epoch"]), params.epochs):
        model.module.train()
        # The order depends on seed and epoch alone, so that a resumed run sees what an unbroken one would.
        shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(context.seed * 1_000_003 + epoch))
        total = 0.0
        for index in torch.split(shuffled, params.batch_size):
            factor = learning_rate(params.schedule, int(progress["step"]), steps)
            if context.probe:
                factor = context.probe.learning_rate(int(progress["step"])) / params.optimizer.lr
            for group in optimizer.param_groups:
                group["lr"] = params.optimizer.lr * factor
            with torch.autocast("cpu", torch.bfloat16, enabled=params.precision == "bf16"):
                loss = objective(Batch({name: x[index] for name, x in inputs.items()}, labels[index], index))
            value = loss.item()
            if context.probe:
                context.probe.see(value)
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss became {value} in epoch {epoch}, step {int(progress['step'])}, at learning rate "
                    f"{params.optimizer.lr * factor:.3g}; lower fit.optimizer.lr or fit.clip_norm"
                )
            if progress["step"] == 0:
                progress["first_loss"] = value
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, params.clip_norm)
            optimizer.step()
            progress["step"] += 1
            total += value * len(index)
        mean = total / len(train)
        if mean > DIVERGED * max(progress["first_loss"], 1.0):
            raise TrainingError(
                f"training diverged: the loss is {mean:.3g} in epoch {epoch} and was {progress['first_loss']:.3g} "
                f"in the first step; lower fit.optimizer.lr ({params.optimizer.lr})"
            )
        seen = validate() if validate else measure(model, validation, params.loss)
        context.log(
            {
                "loss": mean,
                "learning_rate": params.optimizer.lr * factor,
                **{f"validation_{k}": v for k, v in seen.items()},
            },
            epoch,
        )
        if not math.isfinite(seen["loss"]):
            raise TrainingError(f"the validation loss became {seen['loss']} in epoch {epoch}; lower fit.optimizer.lr")
        if seen["loss"] < progress["best_loss"]:
            progress |= {"best_loss": seen["loss"], "best_epoch": epoch}
            for name, x in model.module.state_dict().items():
                best[name].copy_(x)
        progress["epoch"] = epoch + 1
        if epoch - progress["best_epoch"] >= params.patience:
            log.info("stopped early after epoch %d: no better since epoch %d", epoch, progress["best_epoch"])
            break
        if time.monotonic() - saved_at >= CHECKPOINT_SECONDS and epoch + 1 < params.epochs:
            _save(checkpoints, model.module, optimizer, best, progress)
            saved_at = time.monotonic()
    model.module.load_state_dict(best)
    model.module.eval()
    shutil.rmtree(checkpoints, ignore_errors=True)


def _save(
    checkpoints: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    progress: dict[str, float],
) -> None:
    """Everything a resumed run needs, as safetensors; the JSON beside it is written last and vouches for it."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {"random": torch.get_rng_state()}
    tensors |= {f"module.{name}": x for name, x in module.state_dict().items()}
    tensors |= {f"best.{name}": x for name, x in best.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": x for name, x in state.items() if isinstance(x, torch.Tensor)}
    checkpoints.mkdir(parents=True, exist_ok=True)
    path = checkpoints / f"{int(progress['epoch']):06d}.safetensors"
    save_file({name: x.detach().clone().contiguous() for name, x in tensors.items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256_file(path), "progress": progress}), "utf-8")
    for old in sorted(checkpoints.glob("*.safetensors"))[:-2]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()


def _restore(
    checkpoints: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer, best: dict[str, Tensor]
) -> dict[str, float] | None:
    """Put back the newest whole checkpoint; a damaged one is passed over with a warning. None if there is none."""
    import torch
    from safetensors.torch import load_file

    for card in sorted(checkpoints.glob("*.json"), reverse=True):
        path = card.with_suffix(".safetensors")
        try:
            said: dict[str, Any] = json.loads(card.read_text("utf-8"))
            whole = sha256_file(path) == said["sha256"]
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            log.warning("checkpoint %s is damaged and passed over", path.name)
            continue
        tensors = load_file(path)
        module.load_state_dict({n.removeprefix("module."): x for n, x in tensors.items() if n.startswith("module.")})
        for name, x in best.items():
            x.copy_(tensors[f"best.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, x in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                state.setdefault(int(number), {})[key] = x
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["random"])
        progress: dict[str, float] = said["progress"]
        return progress
    return None
