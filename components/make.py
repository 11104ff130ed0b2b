"""make: one pass makes one variant from its parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from components import assemble
from components.data import Rows, Spec, read_rows
from components.fit import measure
from components.hashing import sha256_file
from components.model import Context, Model
from components.params import CrossEntropy, Fit, Variant
from components.params import Family as FamilyParams
from components.passes import PASSES


def run(
    variant: Variant,
    seed: int,
    threads: int,
    log: Callable[[Mapping[str, float], int], None],
    *,
    data: Path,
    parent: Path,
    out: Path,
) -> dict[str, float]:
    """Metrics: on the validation split (the test split is for evaluate), and the model's size."""
    model, context = start(seed, threads, log, data, parent, out)
    model, figures = PASSES[variant.kind](model, variant, context)
    assemble.save(model, out)
    loss = variant.fit.loss if isinstance(variant.fit, Fit) else CrossEntropy(kind="cross_entropy", label_smoothing=0.0)
    validation = context.rows("validation")
    return {
        **{f"validation_{name}": value for name, value in measure(model, validation, loss).items()},
        "parameters": model.parameters(),
        "multiply_adds": multiply_adds(model, validation.head(1)),
        **figures,
    }


def rows_of(data: Path, split: str, spec: Spec) -> Rows:
    """What a pass may read; where the data have no corpus, that is empty."""
    if split not in ("train", "validation", "corpus"):
        raise ValueError(f"a pass may read train, validation and corpus, not {split!r}")
    if split == "corpus" and not (data / "corpus.parquet").exists():
        return read_rows(data, "train", spec).head(0)
    return read_rows(data, split, spec)


def start(
    seed: int, threads: int, log: Callable[[Mapping[str, float], int], None], data: Path, parent: Path, out: Path
) -> tuple[Model, Context]:
    """What a pass starts from, and torch set up so that it comes out the same each time."""
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    spec = Spec.read(data)

    @cache
    def rows(split: str) -> Rows:
        return rows_of(data, split, spec)

    def create(params: FamilyParams) -> Model:
        return assemble.create(params, spec)

    model = assemble.load(parent)
    return model, Context(rows, create, seed, out, sha256_file(parent / "model.safetensors"), log)


def multiply_adds(model: Model, one: Rows) -> int:
    """Of matrix products, convolutions and attention, for one row."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.logits({name: torch.from_numpy(x) for name, x in one.inputs.items()})
    return int(counter.get_total_flops()) // 2
