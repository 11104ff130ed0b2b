"""Model to model. One file a pass: `run(model, params, context) -> (model, figures)`.

`model` is the parent, loaded for this call alone, so a pass may change it in place; `figures` go into
the variant's metrics.
"""

from collections.abc import Callable
from typing import Any

from components.model import Context, Model
from components.passes import distill, lora, pretrain, prune, qat, train

PASSES: dict[str, Callable[[Model, Any, Context], tuple[Model, dict[str, float]]]] = {
    "train": train.run,
    "pretrain": pretrain.run,
    "lora": lora.run,
    "distill": distill.run,
    "prune": prune.run,
    "qat": qat.run,
}
