"""pretrain: train what is before the classifier on the inputs alone; labels are not looked at.

contrastive is SimCLR (Chen et al., arXiv 2002.05709): two views of each image, compared in a projection that is
dropped afterwards, any family with features. masked is SimMIM (Xie et al., arXiv 2111.09886): guess the pixels under
masked patches, families in params.MASKABLE. masked_language is BERT's own (components/masking.py): guess masked tokens,
families in params.LANGUAGE; it also learns from the corpus, if there is one, and is measured on the validation rows
alone. The classifier stays what it was in the parent.

All rows come from `context.rows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from components import masking
from components.augment import augmentation
from components.data import Rows, trimmed
from components.errors import TrainingError
from components.fit import Batch, fit
from components.model import Context, LanguageModel, Maskable, Model
from components.params import LANGUAGE, Contrastive, CrossEntropy, Fit, Masked, MaskedLanguage, Pretrain

if TYPE_CHECKING:
    from torch import Tensor, nn

# `loss`, and what else is measured: a mean, and over how many rows or tokens it is taken
Figures = dict[str, tuple["Tensor", int]]
Trial = tuple["nn.Module", Callable[[Mapping[str, "Tensor"]], Figures]]  # what is trained; raw inputs to figures


def run(model: Model, params: Pretrain, context: Context) -> tuple[Model, dict[str, float]]:
    if isinstance(params.method, MaskedLanguage):
        context = replace(context, rows=_with_corpus(context.rows))
    module, figures = METHODS[params.method.kind](model, params.method, context)

    def objective(batch: Batch) -> Tensor:
        return figures(batch.inputs)["loss"][0]

    def validate() -> dict[str, float]:
        return _measure(module, figures, context, params.fit.batch_size)

    # fit reads the loss section only where it measures validation itself.
    loop = Fit(**dict(params.fit), loss=CrossEntropy(kind="cross_entropy", label_smoothing=0.0))
    fit(replace(model, module=module), loop, context, objective, validate)
    model.module.eval()
    return model, {f"pretrain_{name}": value for name, value in validate().items()}


def _with_corpus(rows: Callable[[str], Rows]) -> Callable[[str], Rows]:
    """The same rows, those of the corpus after the training rows."""

    @cache
    def found(split: str) -> Rows:
        some, more = rows(split), rows("corpus") if split == "train" else None
        if more is None or not len(more):
            return some
        inputs = {name: np.concatenate([x, more.inputs[name]]) for name, x in some.inputs.items()}
        ids, labels = (np.concatenate(parts) for parts in ((some.row_id, more.row_id), (some.labels, more.labels)))
        return Rows(ids, inputs, labels)

    return found


def _raw(rows: Rows) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(x) for name, x in rows.inputs.items()}


def _measure(
    module: nn.Module, figures: Callable[[Mapping[str, Tensor]], Figures], context: Context, batch_size: int
) -> dict[str, float]:
    """Figures on validation, each time with the same views or masks; torch's random state stays as it is."""
    import torch

    rows = context.rows("validation")
    inputs = _raw(rows)
    order = inputs["attention_mask"].sum(1).argsort(stable=True) if "attention_mask" in inputs else None
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    was_training = module.training
    module.eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(context.seed)
        for index in torch.split(torch.arange(len(rows)) if order is None else order, batch_size):
            batch = trimmed({name: x[index] for name, x in inputs.items()})
            for name, (value, count) in figures(batch).items():
                totals[name] = totals.get(name, 0.0) + value.item() * count
                counts[name] = counts.get(name, 0) + count
    module.train(was_training)
    means = {name: total / max(counts[name], 1) for name, total in totals.items()}
    if "masked_loss" in means:  # of the whole split: the mean of the batches' perplexities would be more
        means["perplexity"] = math.exp(min(means["masked_loss"], 700.0))
    return means


def contrastive(model: Model, params: Contrastive, context: Context) -> Trial:
    """`loss` is NT-Xent; `alignment` the share of views whose nearest other view is their image's."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, normalize

    class Projected(nn.Module):
        def __init__(self, encoder: nn.Module, projection: nn.Module) -> None:
            super().__init__()
            self.encoder, self.projection = encoder, projection

        def get_base_model(self) -> nn.Module:
            """As peft's: what fit looks into for blocks."""
            return self.encoder

        def forward(self, raw: Mapping[str, Tensor]) -> Tensor:
            pixels = model.task.preprocess(raw, model.spec)
            codes: Tensor = self.projection(model.family.features(self.encoder, pixels))
            return codes

    inputs = _raw(context.rows("train"))
    change = augmentation(params.views, inputs, len(model.spec.classes))
    with torch.no_grad():
        few = model.task.preprocess({name: x[:2] for name, x in inputs.items()}, model.spec)
        width = model.family.features(model.module.eval(), few).shape[1]
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, params.projection))
    trained = Projected(model.module, head)

    def figures(raw: Mapping[str, Tensor]) -> Figures:
        images = raw["image"]
        views = torch.cat([change(images, torch.zeros(len(images)))[0] for _ in range(2)])
        codes = normalize(trained({"image": views}).float())
        with torch.autocast("cpu", enabled=False):  # bf16 would blur which of many views is nearest
            likeness = codes @ codes.T / params.temperature
        likeness = likeness.masked_fill(torch.eye(len(codes), dtype=torch.bool), -torch.inf)
        other = torch.arange(len(codes)).roll(len(images))
        return {
            "loss": (cross_entropy(likeness, other), len(images)),
            "alignment": ((likeness.argmax(1) == other).float().mean(), len(images)),
        }

    return trained, figures


def masked(model: Model, params: Masked, context: Context) -> Trial:
    """`loss` is the mean absolute error of the normalised pixels under the mask."""
    import torch

    if not hasattr(model.family, "masked"):
        raise TrainingError(f"family {model.params.family} has no patches to mask; take method contrastive")
    trained, patches = cast(Maskable, model.family).masked(model.module, model.params)
    hidden = min(patches - 1, max(1, round(params.ratio * patches)))

    def figures(raw: Mapping[str, Tensor]) -> Figures:
        pixels = model.task.preprocess(raw, model.spec)["pixel_values"]
        order = torch.rand(len(pixels), patches).argsort(1)
        return {"loss": (trained(pixels, order < hidden).loss, len(pixels))}

    return trained, figures


def masked_language(model: Model, params: MaskedLanguage, context: Context) -> Trial:
    """`loss` is `masked_loss`, the cross entropy of the chosen tokens, plus that of the next sentence.

    Besides `masked_accuracy` and, with next_sentence, `next_sentence_accuracy`; by chance half.
    """
    from torch.nn.functional import cross_entropy

    vocabulary, family = model.spec.vocabulary, model.family
    if vocabulary is None or not hasattr(family, "language_model"):
        able = ", ".join(LANGUAGE)
        raise TrainingError(f"family {model.params.family} has no tokens to mask; method masked_language is for {able}")
    paired = bool(params.next_sentence)
    trained = cast(LanguageModel, family).language_model(model.module, paired)

    def figures(raw: Mapping[str, Tensor]) -> Figures:
        inputs, other = masking.pairs(raw, vocabulary, model.spec.shape[0]) if paired else (dict(raw), None)
        tokens = inputs["input_ids"]
        inputs["input_ids"], chosen = masking.mask(inputs, vocabulary, params.ratio)
        said = trained(model.task.preprocess(inputs, model.spec), chosen)
        guess, right = said["tokens"].float(), tokens[chosen]
        count = len(right)
        # Rows without any token of their own give nothing to guess: 0, not the mean of nothing.
        loss = cross_entropy(guess, right, reduction="sum") / max(count, 1)
        found: Figures = {
            "masked_loss": (loss, count),
            "masked_accuracy": ((guess.argmax(1) == right).float().sum() / max(count, 1), count),
        }
        if other is not None:
            follows = said["next_sentence"].float()
            loss = loss + cross_entropy(follows, other)
            found["next_sentence_accuracy"] = ((follows.argmax(1) == other).float().mean(), len(other))
        return found | {"loss": (loss, count)}

    return trained, figures


METHODS: dict[str, Callable[[Model, Any, Context], Trial]] = {
    "contrastive": contrastive,
    "masked": masked,
    "masked_language": masked_language,
}
