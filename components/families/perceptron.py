"""Perceptron (Rosenblatt, 1958): one linear layer on the pixels, here trained by gradients like every family.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components import sequential
from components.data import Spec
from components.errors import TrainingError
from components.params import Perceptron

if TYPE_CHECKING:
    from torch import Tensor, nn

logits, save = sequential.logits, sequential.save


def build(params: Perceptron, spec: Spec) -> nn.Module:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.shape), len(spec.classes)))


def features(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    raise TrainingError("family perceptron has no features that could be trained: it is its classifier; take another")


def lora_targets(module: nn.Module) -> list[str]:
    return ["1"]


def prunable(module: nn.Module) -> Sequence[nn.Module]:
    """None: its outputs are the classes."""
    return []


def pruned(module: nn.Module, params: Perceptron) -> Perceptron:
    return params


def load(directory: Path, params: Perceptron, spec: Spec) -> nn.Module:
    return sequential.filled(build(params, spec), directory)
