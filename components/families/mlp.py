"""Multi-layer perceptron on the flattened image: Linear, GELU and dropout for each hidden width.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from components import sequential
from components.data import Spec
from components.params import Mlp

if TYPE_CHECKING:
    from torch import nn

logits, features, save = sequential.logits, sequential.features, sequential.save
lora_targets, prunable = sequential.lora_targets, sequential.prunable


def build(params: Mlp, spec: Spec) -> nn.Module:
    from torch import nn

    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(spec.shape)
    for hidden in params.hidden:
        layers += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(params.dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, len(spec.classes)))


def pruned(module: nn.Module, params: Mlp) -> Mlp:
    return params.model_copy(update={"hidden": sequential.widths(module)[1]})


def load(directory: Path, params: Mlp, spec: Spec) -> nn.Module:
    return sequential.filled(build(params, spec), directory)
