"""What params.yaml may say: every key, its type and its range, in the order of the file.

Values live in params.yaml only (DVC cannot see a Python default), so no field has one. `load` checks
the whole file, and what its parts say of each other, and reports every error at once.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from components.errors import ParamsError

NAME = r"^[a-z][a-z0-9_]{0,62}$"

Name = Annotated[str, Field(pattern=NAME)]
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
Bounded = Annotated[float, Field(ge=-1e9, le=1e9)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Text = Annotated[str, Field(min_length=1, max_length=500)]


def _relative(path: str) -> str:
    parts = Path(path).parts
    if "\x00" in path or "\n" in path or path.startswith("~") or ".." in parts:
        raise ValueError("must be a plain path without '..', '~' or line breaks")
    return path


FilePath = Annotated[Text, AfterValidator(_relative)]


class Section(BaseModel):
    """One mapping of params.yaml: unknown keys and NaN are refused, types are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


# --- source: where the rows come from ------------------------------------------------------------


class Embedded(Section):
    """A data set that a library ships: nothing is downloaded."""

    kind: Literal["embedded"]
    dataset: Literal["digits"]


class Csv(Section):
    kind: Literal["csv"]
    path: FilePath
    delimiter: Annotated[str, Field(min_length=1, max_length=1)]


class Parquet(Section):
    kind: Literal["parquet"]
    path: FilePath


Source = Annotated[Embedded | Csv | Parquet, Field(discriminator="kind")]

# --- task: what is asked --------------------------------------------------------------------------


class ImageColumns(Section):
    """`image` is one list column or, with a `*`, one column a pixel in file order; `key` may be null."""

    image: Text
    label: Text
    key: Text | None


class ImageClassification(Section):
    kind: Literal["image_classification"]
    columns: ImageColumns
    shape: Annotated[list[Count], Field(min_length=2, max_length=3)]  # height, width[, channels]
    range: Annotated[list[Bounded], Field(min_length=2, max_length=2)]  # least and greatest raw pixel value
    classes: Annotated[list[Text], Field(min_length=2, max_length=100_000)]

    @model_validator(mode="after")
    def _sane(self) -> ImageClassification:
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range must rise, got {self.range}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must differ from each other")
        return self


Task = ImageClassification  # becomes a union on `kind` with the second task

# --- validate, prepare ----------------------------------------------------------------------------


class Expectation(Section):
    """A Great Expectations expectation by its snake_case name; `stop` ends the run, `quarantine` sets rows aside."""

    expect: Annotated[str, Field(pattern=r"^expect_[a-z0-9_]+$")]
    severity: Literal["stop", "quarantine"]
    arguments: dict[str, Any]


class Validate(Section):
    min_rows: Count
    max_quarantined_share: Share
    max_duplicate_share: Share
    expectations: list[Expectation]


class Split(Section):
    train: OpenShare
    validation: OpenShare
    calibration: OpenShare
    test: OpenShare

    @model_validator(mode="after")
    def _whole(self) -> Split:
        total = self.train + self.validation + self.calibration + self.test
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"shares must add up to 1, got {total:.6g}")
        return self


class Prepare(Section):
    split: Split


# --- families: who answers ------------------------------------------------------------------------


class Mlp(Section):
    family: Literal["mlp"]
    hidden: Annotated[list[Count], Field(min_length=1, max_length=64)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Vit(Section):
    family: Literal["vit"]
    patch_size: Count
    hidden_size: Count
    layers: Count
    heads: Count
    head_dim: Count
    intermediate_size: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


Family = Annotated[Mlp | Vit, Field(discriminator="family")]


class Init(Section):
    model: Family


# --- fit: the training loop -----------------------------------------------------------------------


class AdamW(Section):
    kind: Literal["adamw"]
    lr: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]


class Sgd(Section):
    kind: Literal["sgd"]
    lr: Annotated[float, Field(gt=0, le=1000)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    momentum: Annotated[float, Field(ge=0, lt=1)]


class Schedule(Section):
    kind: Literal["cosine", "linear", "constant"]
    warmup_share: Annotated[float, Field(ge=0, lt=1)]


class Fit(Section):
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    optimizer: Annotated[AdamW | Sgd, Field(discriminator="kind")]
    schedule: Schedule
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    clip_norm: Positive
    patience: Annotated[int, Field(ge=1, le=100_000)]  # epochs without a better validation loss


# --- passes: model to model -----------------------------------------------------------------------


class Pass(Section):
    """What every variant has: the variant it starts from. `init` is the root."""

    parent: Name = Field(alias="from")


class Train(Pass):
    kind: Literal["train"] = Field(alias="pass")
    fit: Fit


class Lora(Pass):
    kind: Literal["lora"] = Field(alias="pass")
    rank: Annotated[int, Field(ge=1, le=4096)]
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    fit: Fit


class Distill(Pass):
    """The parent teaches a student that has a model section of its own."""

    kind: Literal["distill"] = Field(alias="pass")
    temperature: Annotated[float, Field(gt=0, le=1000)]
    weight: Share  # of the soft targets; the rest goes to the labels
    model: Family
    fit: Fit


class Prune(Pass):
    kind: Literal["prune"] = Field(alias="pass")
    ratio: OpenShare  # of the channels of every prunable layer
    fit: Fit  # recovery training


Variant = Annotated[Train | Lora | Distill | Prune, Field(discriminator="kind")]

# --- targets: model to file -----------------------------------------------------------------------


class OnnxFp32(Section):
    kind: Literal["onnx_fp32"]


class OnnxInt8Dynamic(Section):
    kind: Literal["onnx_int8_dynamic"]
    per_channel: bool


class OnnxInt8Static(Section):
    kind: Literal["onnx_int8_static"]
    per_channel: bool
    calibration: Literal["minmax", "entropy", "percentile"]
    rows: Count  # of the calibration split


class TensorRt(Section):
    kind: Literal["tensorrt"]
    precision: Literal["fp16", "int8"]
    batch_sizes: Annotated[list[Count], Field(min_length=3, max_length=3)]  # least, best, greatest
    rows: Count  # of the calibration split, for int8


Target = Annotated[OnnxFp32 | OnnxInt8Dynamic | OnnxInt8Static | TensorRt, Field(discriminator="kind")]

# --- parity, benchmark, compare, policy -----------------------------------------------------------


class Parity(Section):
    batch_sizes: Annotated[list[Count], Field(min_length=1)]
    rows: Count  # real rows per batch size
    max_export_difference: Positive  # largest logit difference torch to ONNX
    min_export_agreement: Share  # top-1 answers torch to ONNX
    min_build_agreement: Share  # top-1 answers ONNX to a quantized build


class Benchmark(Section):
    batch_sizes: Annotated[list[Count], Field(min_length=1)]
    rounds: Annotated[int, Field(ge=5, le=100_000)]
    warmup: Annotated[int, Field(ge=1, le=100_000)]
    seconds_per_round: Positive  # for all cells of one batch size together


class Compare(Section):
    confidence: OpenShare
    resamples: Annotated[int, Field(ge=100, le=1_000_000)]


class Bounds(Section):
    """What a cell may cost at most; null is no bound."""

    latency_ms: Positive | None
    size_mb: Positive | None


class Policy(Section):
    metric: Literal["accuracy"]
    margin: Share  # a cell may be worse than the best and than the champion by at most this
    batch_size: Count  # at which latency is bounded and minimised
    bounds: Bounds
    objective: Literal["latency_ms", "size_mb", "accuracy"]


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
        if variant.parent == "init" and not isinstance(variant, Train):
            yield (
                f"{where}.pass: {variant.kind} needs a trained parent, and init is untrained; "
                f"put a variant with 'pass: train' before it"
            )
        if isinstance(variant, Distill):
            yield from _family_errors(variant.model, params.task.shape, f"{where}.model")
    yield from _family_errors(params.init.model, params.task.shape, "init.model")
    for name, target in params.targets.items():
        if name == "export":
            yield "targets.export: 'export' names the folder of the ONNX file all targets start from; choose another"
        if isinstance(target, TensorRt) and target.batch_sizes != sorted(target.batch_sizes):
            yield f"targets.{name}.batch_sizes: must rise from least to greatest, got {target.batch_sizes}"
    if not any(isinstance(target, OnnxFp32) for target in params.targets.values()):
        yield "targets: one must have 'kind: onnx_fp32'; the matrix compares every other build with it"
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


def check_family(raw: object) -> Family:
    """A model section by itself, as a model folder's temper.json holds it."""
    made: Family = TypeAdapter(Family).validate_python(raw)
    return made


def check_variant(raw: object) -> Variant:
    """One entry of `variants` by itself."""
    made: Variant = TypeAdapter(Variant).validate_python(raw)
    return made


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file (YAML 1.2, as DVC reads it; at most 1 MB, no duplicate keys, no tags)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError([f"{path}: cannot be read: {error}"]) from None
    if len(text) > 1_000_000:
        raise ParamsError([f"{path}: is larger than 1 MB; params are settings, put data into files"])
    try:
        raw = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ParamsError([f"{path}: is not valid YAML: {' '.join(str(error).split())[:300]}"]) from None
    return check(raw)
