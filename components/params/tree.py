"""What single sections of params.yaml cannot see: parents, cycles, orders of passes, references to other sections."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.params.data import ImageClassification, OfCheckpoint, TextClassification
from components.params.families import (
    BLOCKED,
    FAMILIES_OF,
    FEATURELESS,
    MASKABLE,
    NARROWABLE,
    NEXT_SENTENCE,
    TOKENS,
    Family,
    Lenet,
    Vit,
)
from components.params.fit import AUGMENTATIONS_OF_TEXT, Colour
from components.params.passes import (
    SHARES,
    Contrastive,
    Distill,
    Lora,
    Masked,
    MaskedLanguage,
    Pretrain,
    Prune,
    Train,
    Variant,
)
from components.params.targets import OnnxFp32

if TYPE_CHECKING:
    from components.params.whole import Params

Task = ImageClassification | TextClassification


def _family_errors(family: Family, task: Task, where: str) -> Iterator[str]:
    able = FAMILIES_OF[task.kind]
    if family.family not in able:
        yield f"{where}.family: {family.family} does no {task.kind}; it can be one of: {', '.join(able)}"
        return
    if not isinstance(task, ImageClassification):
        return
    shape = task.shape
    if isinstance(family, Vit) and (shape[0] % family.patch_size or shape[1] % family.patch_size):
        yield f"{where}.patch_size: must divide task.shape {shape[:2]}, got {family.patch_size}"
    if isinstance(family, Lenet) and min(shape[:2]) < 4:
        yield f"{where}: lenet halves the image twice and needs 4 pixels a side, task.shape has {shape[:2]}; take mlp"


def _family(params: Params, name: str) -> Family:
    """The family of a variant whose chain of parents ends."""
    while name in params.variants:
        variant = params.variants[name]
        if isinstance(variant, Distill):
            return variant.model
        name = variant.parent
    return params.init.model


def _pretrain_errors(variant: Pretrain, family: Family, task: Task, where: str) -> Iterator[str]:
    text = isinstance(variant.method, MaskedLanguage)
    if text == isinstance(task, ImageClassification):
        takes = "texts" if text else "images"
        yield f"{where}.method.kind: {variant.method.kind} is for {takes}, and this task is {task.kind}"
        return
    if isinstance(variant.method, MaskedLanguage):
        architecture = getattr(family, "architecture", None)  # of a checkpoint it is not known yet
        if variant.method.next_sentence and architecture not in (None, *NEXT_SENTENCE):
            able = ", ".join(NEXT_SENTENCE)
            yield f"{where}.method.next_sentence: is for architectures {able}, this one is {architecture}; take it out"
    if not isinstance(task, ImageClassification):
        return
    shape = task.shape
    if family.family in FEATURELESS:
        yield f"{where}.pass: pretrain trains what is before the classifier, and {family.family} has nothing there"
    if isinstance(variant.method, Masked):
        if family.family not in MASKABLE:
            able = ", ".join(MASKABLE)
            yield f"{where}.method.kind: masked is for families {able}, this one is {family.family}; take contrastive"
        elif shape[0] != shape[1]:
            yield f"{where}.method.kind: masked needs square images, task.shape has {shape[:2]}; take contrastive"
    if isinstance(variant.method, Contrastive) and (len(shape) < 3 or shape[2] != 3):
        for number, view in enumerate(variant.method.views):
            if isinstance(view, Colour) and (view.saturation or view.hue):
                yield (
                    f"{where}.method.views.{number}: saturation and hue need images of 3 channels, task.shape is "
                    f"{shape}; set both to 0.0"
                )


def _text_errors(params: Params, task: TextClassification) -> Iterator[str]:
    checkpoint, of_checkpoint = getattr(params.init.model, "checkpoint", None), isinstance(task.tokenizer, OfCheckpoint)
    if of_checkpoint and checkpoint is None:
        yield "task.tokenizer.kind: init.model names no checkpoint to take a tokenizer from; take wordpiece"
    if checkpoint is not None and not of_checkpoint:
        yield (
            f"task.tokenizer.kind: the weights of {checkpoint} know the tokens of their own tokenizer, not those of a "
            f"new one; take checkpoint"
        )


def _corpus_errors(params: Params) -> Iterator[str]:
    if params.prepare.corpus is None:
        return
    if not isinstance(params.task, TextClassification):
        yield f"prepare.corpus: is for texts, and this task is {params.task.kind}; take it out"
    elif not any(isinstance(v, Pretrain) and isinstance(v.method, MaskedLanguage) for v in params.variants.values()):
        yield (
            "prepare.corpus: no variant learns from it; add one with 'pass: pretrain' and method masked_language, "
            "or take it out"
        )


def _fit_errors(variant: Variant, family: Family, task: Task, where: str) -> Iterator[str]:
    text = isinstance(task, TextClassification)
    for number, one in enumerate(getattr(variant.fit, "augment", None) or []):
        if isinstance(one, AUGMENTATIONS_OF_TEXT) != text:
            takes = "images" if text else "texts"
            yield f"{where}.fit.augment.{number}: {one.kind} is for {takes}, and this task is {task.kind}; take it out"
    for key in ("layer_decay", "unfreeze"):
        if getattr(variant.fit, key) is not None and family.family not in BLOCKED:
            able = ", ".join(BLOCKED)
            yield f"{where}.fit.{key}: goes by blocks, and {family.family} has none; families that do: {able}"


def _distill_errors(variant: Distill, teacher: Family, task: Task, where: str) -> Iterator[str]:
    yield from _family_errors(variant.model, task, f"{where}.model")
    if getattr(variant.model, "checkpoint", None):
        yield f"{where}.model.checkpoint: only init reads a checkpoint; name it in init.model"
    families = {"its teacher": teacher.family, "its student": variant.model.family}
    for key in ("hidden", "attention", "copy_layers"):
        for who, family in families.items():
            if getattr(variant, key) is not None and family not in TOKENS:
                able = ", ".join(TOKENS)
                yield f"{where}.{key}: {who} is {family}, which has no layers of tokens; families that do: {able}"
    if variant.copy_layers is not None and len(set(families.values())) > 1:
        yield f"{where}.copy_layers: a {families['its student']} cannot start from layers of a {teacher.family}"


def _prune_errors(variant: Prune, family: Family, where: str) -> Iterator[str]:
    if (variant.ratio is None) != (family.family in NARROWABLE):
        way = "take ratio" if variant.ratio is None else f"take at least one of {', '.join(SHARES)}"
        what = "shares of a transformer's parts are" if variant.ratio is None else "ratio, of channels, is"
        yield f"{where}: {what} not for {family.family}; {way}"


def errors(params: Params) -> Iterator[str]:
    """One line for each mistake."""
    if isinstance(params.task, TextClassification):
        yield from _text_errors(params, params.task)
    yield from _corpus_errors(params)
    for name, variant in params.variants.items():
        where = f"variants.{name}"
        if name == "init":
            yield f"{where}: 'init' names the root of the variants; choose another name"
        if variant.parent != "init" and variant.parent not in params.variants:
            known = ["init", *(other for other in params.variants if other != name)]
            meant = difflib.get_close_matches(variant.parent, known, 1)
            asked = f"did you mean {meant[0]}? " if meant else ""
            yield f"{where}.from: no variant is called {variant.parent!r}; {asked}it can be one of: {', '.join(known)}"
        seen, at = {name}, variant.parent
        while at in params.variants:
            if at in seen:
                yield f"{where}.from: the chain of parents comes back to {at!r}; let one of them start from init"
                break
            seen.add(at)
            at = params.variants[at].parent
        else:
            family = _family(params, name)
            yield from _fit_errors(variant, family, params.task, where)
            if isinstance(variant, Pretrain):
                yield from _pretrain_errors(variant, family, params.task, where)
            if isinstance(variant, Prune):
                yield from _prune_errors(variant, family, where)
            if isinstance(variant, Distill):
                yield from _distill_errors(variant, _family(params, variant.parent), params.task, where)
        untrained = variant.parent == "init" or isinstance(params.variants.get(variant.parent), Pretrain)
        learns = isinstance(variant, Train | Pretrain) or (isinstance(variant, Lora) and variant.train_head)
        if untrained and not learns:
            also = ", or say 'train_head: true'" if isinstance(variant, Lora) else ""
            yield (
                f"{where}.pass: {variant.kind} needs a trained parent, and the classifier of {variant.parent} is "
                f"untrained; put a variant with 'pass: train' before it{also}"
            )
    first, reference = next(iter(params.variants.items()))
    if isinstance(reference, Pretrain):
        yield (
            f"variants.{first}: all others are compared with the first variant, and a pretrain's classifier is "
            f"untrained; put one with 'pass: train' first (its parent may stand below it)"
        )
    yield from _family_errors(params.init.model, params.task, "init.model")
    for name in params.targets:
        if name == "export":
            yield "targets.export: 'export' names the folder of the ONNX file all targets start from; choose another"
    if not any(isinstance(target, OnnxFp32) for target in params.targets.values()):
        yield "targets: one must have 'kind: onnx_fp32'; the matrix compares every other build with it"
    if params.benchmark.max_rounds < params.benchmark.rounds:
        yield (
            f"benchmark.max_rounds: {params.benchmark.max_rounds} is less than benchmark.rounds, "
            f"{params.benchmark.rounds}; make it at least that"
        )
    if params.policy.batch_size not in params.benchmark.batch_sizes:
        yield (
            f"policy.batch_size: {params.policy.batch_size} is not measured; "
            f"choose one of benchmark.batch_sizes {params.benchmark.batch_sizes} or add it there"
        )
    for number, bound in enumerate(params.policy.bounds.batches):
        if bound.batch_size not in params.benchmark.batch_sizes:
            yield (
                f"policy.bounds.batches.{number}.batch_size: {bound.batch_size} is not measured; "
                f"choose one of benchmark.batch_sizes {params.benchmark.batch_sizes} or add it there"
            )
