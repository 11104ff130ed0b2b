"""LeNet-5 (LeCun et al., 1998): two 5x5 convolutions with tanh and average pooling, then linear layers with tanh.

As there, images are padded before the first convolution and not before the second, except those of less than 12
pixels a side. The subsampling has no weights and the output is linear.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components import sequential
from components.data import Spec
from components.params import Lenet

if TYPE_CHECKING:
    from torch import nn

logits, features, save = sequential.logits, sequential.features, sequential.save
lora_targets, prunable = sequential.lora_targets, sequential.prunable


def build(params: Lenet, spec: Spec) -> nn.Module:
    from torch import nn

    height, width, *channels = spec.shape
    padding = 2 if min(height, width) < 12 else 0
    height, width = ((side // 2 - 4 + 2 * padding) // 2 for side in (height, width))
    first, second = params.widths
    layers: list[nn.Module] = [
        *(nn.Conv2d(channels[0] if channels else 1, first, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(first, second, 5, padding=padding), nn.Tanh(), nn.AvgPool2d(2)),
        nn.Flatten(),
    ]
    inputs = second * height * width
    for hidden in params.hidden:
        layers += [nn.Linear(inputs, hidden), nn.Tanh()]
        inputs = hidden
    return nn.Sequential(*layers, nn.Linear(inputs, len(spec.classes)))


def pruned(module: nn.Module, params: Lenet) -> Lenet:
    widths, hidden = sequential.widths(module)
    return params.model_copy(update={"widths": widths, "hidden": hidden})


def load(directory: Path, params: Lenet, spec: Spec) -> nn.Module:
    return sequential.filled(build(params, spec), directory)
