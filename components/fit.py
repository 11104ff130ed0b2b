"""The one training loop. Same seed, data and thread count give the same weights, resumed or not."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components import buckets, ema, first_token, gradual, groups, layout, optimizers, resume
from components.activations import checkpointed
from components.allocator import keep_memory
from components.augment import for_rows
from components.data import Rows, trimmed
from components.errors import TrainingError
from components.model import Context, Model
from components.params import Fit, Loss, unsmoothed

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 10.0  # between checkpoints; they are written at the end of an epoch
DIVERGED = 10.0  # times the first step's loss (or 1, if that was less)


@dataclass(frozen=True)
class Batch:
    inputs: Mapping[str, Tensor]  # raw, first axis the batch
    labels: Tensor  # (batch,) class numbers, or (batch, classes) probabilities where fit.augment mixes images
    index: Tensor  # (batch,) row numbers in the split


Objective = Callable[[Batch], "Tensor"]


@dataclass(frozen=True)
class Supervised:
    """The task's own loss on the labels: it reads the logits and nothing else of the model."""

    model: Model
    params: Fit

    def __call__(self, batch: Batch) -> Tensor:
        return self.model.task.loss(self.model.logits(batch.inputs), batch.labels, self.params.loss)


def supervised(model: Model, params: Fit) -> Objective:
    return Supervised(model, params)


def _tensors(rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
    import torch

    return {name: torch.from_numpy(x) for name, x in rows.inputs.items()}, torch.from_numpy(rows.labels)


def answers(model: Model, rows: Rows, batch_size: int = 256) -> Tensor:
    """Logits (rows, classes) in eval mode, without gradients."""
    import torch

    inputs, labels = _tensors(rows)
    lengths = _lengths(inputs)
    # Text is padded least when rows of like length are asked together.
    order = torch.arange(len(labels)) if lengths is None else lengths.argsort(stable=True)
    was_training = model.module.training
    model.module.eval()
    with torch.no_grad():
        parts = [
            model.logits(trimmed({name: x[some] for name, x in inputs.items()}))
            for some in torch.split(order, batch_size)
        ]
    model.module.train(was_training)
    return torch.cat(parts)[order.argsort()]


def _lengths(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Tokens of each row, of text."""
    return inputs["attention_mask"].sum(1) if "attention_mask" in inputs else None


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
    Raises TrainingError when the loss is NaN or has diverged, when nothing can be trained, or when this model or these
    data cannot do what `params` say.
    """
    import torch

    train, validation = context.rows("train"), context.rows("validation")
    inputs, labels = _tensors(train)
    keep_memory()
    model.module.to(memory_format=layout.for_training(model.module))  # type: ignore[call-overload]
    augment = for_rows(params.augment, inputs, model.spec) if params.augment else None
    grouped, still = groups.apply(model.module, params.groups or [])
    trained = {name: p for name, p in model.module.named_parameters() if p.requires_grad}
    if not trained:
        raise TrainingError("no parameter can be trained: every layer is frozen")
    factors = gradual.learning_rates(model, trained, grouped, params.layer_decay) if params.layer_decay else {}
    thaw = gradual.unfreezing(model, trained, params.unfreeze, params.epochs) if params.unfreeze else None
    weight_decay = params.optimizer.weight_decay
    optimizer = optimizers.optimizer(params.optimizer, groups.for_optimizer(trained, grouped, weight_decay, factors))
    # What is too small for half precision becomes 0: the loss is scaled up, as far as no gradient overflows.
    scaler = torch.amp.GradScaler("cpu", enabled=params.precision == "fp16")
    step_rows = params.batch_size * (params.accumulate or 1)
    lengths = _lengths(inputs)
    steps = params.epochs * len(buckets.batches(torch.arange(len(train)), step_rows))
    torch.manual_seed(context.seed)
    checkpoints = context.out / "checkpoints"
    progress = {"epoch": 0, "step": 0, "best_loss": math.inf, "best_epoch": -1, "first_loss": math.inf}
    best = {name: x.clone() for name, x in model.module.state_dict().items()}
    mean = ema.start(model.module) if params.ema_decay else {}
    if restored := resume.restore(checkpoints, model.module, optimizer, {"best": best, "mean": mean}):
        progress = restored
        scaler.load_state_dict({key: progress[f"scaler_{key}"] for key in scaler.state_dict()})
        log.info("resumed after epoch %d of %d", progress["epoch"], params.epochs)
    saved_at = time.monotonic()

    def backward(index: Tensor, share: float) -> float:
        """Adds a batch's gradient, times its share of the step's rows; returns its part of the step's loss."""
        batch = Batch(trimmed({name: x[index] for name, x in inputs.items()}), labels[index], index)
        if augment:
            changed, mixed = augment(batch.inputs, batch.labels)
            batch = Batch(changed, mixed, index)
        half = torch.float16 if params.precision == "fp16" else torch.bfloat16
        with torch.autocast("cpu", half, enabled=params.precision is not None):
            loss = objective(batch)
        scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.item() * share

    for epoch in range(int(progress["epoch"]), params.epochs):
        model.module.train()
        for layer in [*still, *(thaw.frozen(epoch) if thaw else ())]:
            layer.eval()
        # The order depends on seed and epoch alone, so that a resumed run sees what an unbroken one would.
        total = 0.0
        for rows in buckets.epoch(len(train), lengths, step_rows, context.seed * 1_000_003 + epoch):
            factor = optimizers.learning_rate(params.schedule, int(progress["step"]), steps)
            if context.probe:
                factor = context.probe.learning_rate(int(progress["step"])) / params.optimizer.lr
            for part in optimizer.param_groups:
                part["lr"] = params.optimizer.lr * factor * part["lr_factor"]
            optimizer.zero_grad()
            again = checkpointed(model.module) if params.checkpoint_activations else nullcontext()
            with again, first_token.alone(model.module) if isinstance(objective, Supervised) else nullcontext():
                parts = buckets.batches(rows, params.batch_size)
                value = sum(backward(index, len(index) / len(rows)) for index in parts)
            if context.probe:
                context.probe.see(value)
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss became {value} in epoch {epoch}, step {int(progress['step'])}, at learning rate "
                    f"{params.optimizer.lr * factor:.3g}; lower fit.optimizer.lr or fit.clip_norm"
                )
            if progress["step"] == 0:
                progress["first_loss"] = value
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(trained.values(), params.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            if params.ema_decay:
                ema.add(mean, model.module, params.ema_decay)
            progress["step"] += 1
            total += value * len(rows)
        mean_loss = total / len(train)
        if mean_loss > DIVERGED * max(progress["first_loss"], 1.0):
            raise TrainingError(
                f"training diverged: the loss is {mean_loss:.3g} in epoch {epoch} and was {progress['first_loss']:.3g} "
                f"in the first step; lower fit.optimizer.lr ({params.optimizer.lr})"
            )
        with ema.in_place(model.module, mean):
            seen = validate() if validate else measure(model, validation, params.loss)
            if seen["loss"] < progress["best_loss"]:
                progress |= {"best_loss": seen["loss"], "best_epoch": epoch}
                for name, x in model.module.state_dict().items():
                    best[name].copy_(x)
        context.log(
            {
                "loss": mean_loss,
                "learning_rate": params.optimizer.lr * factor,
                **{f"validation_{k}": v for k, v in seen.items()},
            },
            epoch,
        )
        if not math.isfinite(seen["loss"]):
            raise TrainingError(f"the validation loss became {seen['loss']} in epoch {epoch}; lower fit.optimizer.lr")
        progress |= {"epoch": epoch + 1, **{f"scaler_{key}": value for key, value in scaler.state_dict().items()}}
        if epoch - max(progress["best_epoch"], thaw.last if thaw else 0) >= params.patience:
            log.info("stopped early after epoch %d: no better since epoch %d", epoch, progress["best_epoch"])
            break
        if time.monotonic() - saved_at >= CHECKPOINT_SECONDS and epoch + 1 < params.epochs:
            resume.save(checkpoints, model.module, optimizer, {"best": best, "mean": mean}, progress)
            saved_at = time.monotonic()
    model.module.load_state_dict(best)
    model.module.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    shutil.rmtree(checkpoints, ignore_errors=True)
