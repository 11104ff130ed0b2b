"""Multi-layer perceptron on the flattened image: Linear, GELU and dropout for each hidden width.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data import Spec
from components.params import Mlp

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(params: Mlp, spec: Spec) -> nn.Module:
    from torch import nn

    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(spec.shape)
    for hidden in params.hidden:
        layers += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(params.dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, len(spec.classes)))


def logits(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    result: Tensor = module(inputs["pixel_values"])
    return result


def features(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The last hidden layer."""
    result: Tensor = module[:-1](inputs["pixel_values"])
    return result


def lora_targets(module: nn.Module) -> list[str]:
    from torch import nn

    return [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]


def prunable(module: nn.Module) -> Sequence[nn.Module]:
    from torch import nn

    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)][:-1]


def pruned(module: nn.Module, params: Mlp) -> Mlp:
    from torch import nn

    widths = [layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear)][:-1]
    return params.model_copy(update={"hidden": widths})


def save(module: nn.Module, directory: Path) -> None:
    from safetensors.torch import save_model

    save_model(module, str(directory / "model.safetensors"))


def load(directory: Path, params: Mlp, spec: Spec) -> nn.Module:
    from safetensors.torch import load_model

    module = build(params, spec)
    load_model(module, str(directory / "model.safetensors"))
    return module
