"""init: the root of the variants, an untrained model of the family in params."""

from __future__ import annotations

from pathlib import Path

from components import assemble
from components.data import Spec
from components.params import Init


def run(init: Init, seed: int, threads: int, *, spec: Path, out: Path) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = assemble.create(init.model, Spec.read(spec.parent))
    assemble.save(model, out)
    return {"parameters": model.parameters()}
