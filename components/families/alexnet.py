"""AlexNet (Krizhevsky et al., 2012), one tower, without response normalisation, scaled to the input.

Five convolutions, the first, second and last with an overlapping 3x3 pooling, which is left out where one pixel is
left. The first is 11x11 with stride 4, below 64 pixels a side 5x5 with stride 1.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components import sequential
from components.data import Spec
from components.params import Alexnet

if TYPE_CHECKING:
    from torch import nn

logits, features, save = sequential.logits, sequential.features, sequential.save
lora_targets, prunable = sequential.lora_targets, sequential.prunable


def build(params: Alexnet, spec: Spec) -> nn.Module:
    from torch import nn

    sides, channels = spec.shape[:2], spec.shape[2] if len(spec.shape) == 3 else 1
    first = (11, 4) if min(sides) >= 64 else (5, 1)
    layers: list[nn.Module] = []
    for number, (width, (kernel, stride)) in enumerate(
        zip(params.widths, [first, (5, 1), (3, 1), (3, 1), (3, 1)], strict=True)
    ):
        layers += [nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2), nn.ReLU()]
        channels, sides = width, [(side - 1) // stride + 1 for side in sides]
        if number in (0, 1, 4) and min(sides) > 1:
            layers.append(nn.MaxPool2d(3, 2, padding=1))
            sides = [(side - 1) // 2 + 1 for side in sides]
    layers.append(nn.Flatten())
    inputs = channels * sides[0] * sides[1]
    for hidden in params.hidden:
        layers += [nn.Dropout(params.dropout), nn.Linear(inputs, hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*layers, nn.Linear(inputs, len(spec.classes)))


def pruned(module: nn.Module, params: Alexnet) -> Alexnet:
    widths, hidden = sequential.widths(module)
    return params.model_copy(update={"widths": widths, "hidden": hidden})


def load(directory: Path, params: Alexnet, spec: Spec) -> nn.Module:
    return sequential.filled(build(params, spec), directory)
