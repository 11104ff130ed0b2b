"""params.yaml as a whole: what single sections cannot see, and errors in the words of the file."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from components.errors import ParamsError
from components.params.data import Prepare, Source, Task, Validate
from components.params.families import FEATURELESS, MASKABLE, Family, Init, Lenet, TransformersImage, Vit
from components.params.fit import Colour
from components.params.measure import Benchmark, Compare, Parity, Policy
from components.params.passes import Contrastive, Distill, Masked, Pretrain, Train, Variant
from components.params.section import Name, Section
from components.params.targets import OnnxFp32, Target


class Params(Section):
    name: Name  # of the registered model
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    threads: Annotated[int, Field(ge=1, le=1024)]
    source: Source
    task: Task
    validate_: Validate = Field(alias="validate")
    prepare: Prepare
    init: Init
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    targets: Annotated[dict[Name, Target], Field(min_length=1)]
    parity: Parity
    benchmark: Benchmark
    compare: Compare
    policy: Policy


def _family_errors(family: Family, shape: list[int], where: str) -> Iterator[str]:
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


def _pretrain_errors(variant: Pretrain, family: Family, shape: list[int], where: str) -> Iterator[str]:
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


def _tree_errors(params: Params) -> Iterator[str]:
    """What single sections cannot see: parents, cycles, pass orders, references to other sections."""
    for name, variant in params.variants.items():
        where = f"variants.{name}"
        if name == "init":
            yield f"{where}: 'init' names the root of the variants; choose another name"
        if variant.parent != "init" and variant.parent not in params.variants:
            known = ", ".join(["init", *params.variants])
            yield f"{where}.from: no variant is called {variant.parent!r}; it can be one of: {known}"
        seen, at = {name}, variant.parent
        while at in params.variants:
            if at in seen:
                yield f"{where}.from: the chain of parents comes back to {at!r}; let one of them start from init"
                break
            seen.add(at)
            at = params.variants[at].parent
        else:
            if isinstance(variant, Pretrain):
                yield from _pretrain_errors(variant, _family(params, name), params.task.shape, where)
        untrained = variant.parent == "init" or isinstance(params.variants.get(variant.parent), Pretrain)
        if untrained and not isinstance(variant, Train | Pretrain):
            yield (
                f"{where}.pass: {variant.kind} needs a trained parent, and the classifier of {variant.parent} is "
                f"untrained; put a variant with 'pass: train' before it"
            )
        if isinstance(variant, Distill):
            yield from _family_errors(variant.model, params.task.shape, f"{where}.model")
            if isinstance(variant.model, TransformersImage) and variant.model.checkpoint:
                yield f"{where}.model.checkpoint: only init reads a checkpoint; name it in init.model"
    first, reference = next(iter(params.variants.items()))
    if isinstance(reference, Pretrain):
        yield (
            f"variants.{first}: all others are compared with the first variant, and a pretrain's classifier is "
            f"untrained; put one with 'pass: train' first (its parent may stand below it)"
        )
    yield from _family_errors(params.init.model, params.task.shape, "init.model")
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


def _path(loc: tuple[int | str, ...], raw: Any) -> str:
    """The keys of the file that lead to an error: pydantic puts the tags of unions between them."""
    steps, node = [], raw
    for i, step in enumerate(loc):
        if isinstance(node, dict) and step not in node and i + 1 < len(loc):
            continue
        steps.append(str(step))
        with contextlib.suppress(KeyError, IndexError, TypeError):
            node = node[step]
    return ".".join(steps) or "params.yaml"


def _describe(error: Mapping[str, Any], raw: Any, missing: Sequence[tuple[int | str, ...]]) -> str:
    where = _path(error["loc"], raw)
    got = error.get("input")
    shown = "" if isinstance(got, dict | list) or error["type"] == "missing" else f", got {got!r:.80}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        *parent, key = error["loc"]
        wanted = [str(loc[-1]) for loc in missing if list(loc[:-1]) == parent]
        meant = difflib.get_close_matches(str(key), wanted, 1)
        return f"{where}: unknown key; " + (
            f"did you mean {meant[0]}?" if meant else "remove it or correct its spelling"
        )
    if error["type"] == "missing":
        return f"{where}: is missing; add it"
    if error["type"] == "union_tag_invalid":
        key = error["ctx"]["discriminator"].split("|")[-1].strip(" '")
        return f"{where}.{key}: must be one of {error['ctx']['expected_tags']}, got {error['ctx']['tag']!r:.80}"
    if error["type"] == "union_tag_not_found":
        key = error["ctx"]["discriminator"].split("|")[-1].strip(" '")
        return f"{where}.{key}: is missing; it says of which kind this is"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def check(raw: object) -> Params:
    """Params from parsed YAML. Raises ParamsError with every error, one a line."""
    if not isinstance(raw, dict):
        raise ParamsError(["params.yaml: must be a mapping of sections, got " + type(raw).__name__])
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)
        missing = [item["loc"] for item in found if item["type"] == "missing"]
        raise ParamsError([_describe(item, raw, missing) for item in found]) from None
    errors = list(_tree_errors(params))
    if errors:
        raise ParamsError(errors)
    return params


def read(path: Path) -> Any:
    """A params file as plain data (YAML 1.2, as DVC reads it; at most 1 MB, no duplicate keys, no tags)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError([f"{path}: cannot be read: {error}"]) from None
    if len(text) > 1_000_000:
        raise ParamsError([f"{path}: is larger than 1 MB; params are settings, put data into files"])
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ParamsError([f"{path}: is not valid YAML: {' '.join(str(error).split())[:300]}"]) from None


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file."""
    return check(read(path))
