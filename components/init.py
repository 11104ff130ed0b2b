"""init: the root of the variants, an untrained model of the family in params or a pretrained checkpoint.

A checkpoint is fetched and checked here, and what stands in `out` is all that the stages after it see.
"""

from __future__ import annotations

import json
from pathlib import Path

from components import assemble
from components.checkpoint import fetch
from components.data import Spec
from components.params import Init


def run(init: Init, seed: int, threads: int, *, spec: Path, checkpoint: Path, out: Path) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    identity, known = json.loads(checkpoint.read_text("utf-8")), Spec.read(spec.parent)
    model = assemble.adopt(fetch(identity), init.model, known) if identity else assemble.create(init.model, known)
    assemble.save(model, out)
    return {"parameters": model.parameters()}
