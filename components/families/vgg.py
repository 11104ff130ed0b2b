"""VGG (Simonyan and Zisserman, arXiv 1409.1556) with batch normalisation, scaled to the input.

Stages of 3x3 convolutions, each with a 2x2 pooling at its end, which is left out where one pixel is left; then linear
layers.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components import sequential
from components.data import Spec
from components.params import Vgg

if TYPE_CHECKING:
    from torch import nn

logits, features, save = sequential.logits, sequential.features, sequential.save
lora_targets, prunable = sequential.lora_targets, sequential.prunable


def build(params: Vgg, spec: Spec) -> nn.Module:
    from torch import nn

    sides, channels = spec.shape[:2], spec.shape[2] if len(spec.shape) == 3 else 1
    layers: list[nn.Module] = []
    for stage in params.stages:
        for width in stage:
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        if min(sides) > 1:
            layers.append(nn.MaxPool2d(2))
            sides = [side // 2 for side in sides]
    layers.append(nn.Flatten())
    inputs = channels * sides[0] * sides[1]
    for hidden in params.hidden:
        layers += [nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(params.dropout)]
        inputs = hidden
    return nn.Sequential(*layers, nn.Linear(inputs, len(spec.classes)))


def pruned(module: nn.Module, params: Vgg) -> Vgg:
    widths, hidden = sequential.widths(module)
    left = iter(widths)
    return params.model_copy(
        update={"stages": [[next(left) for _ in stage] for stage in params.stages], "hidden": hidden}
    )


def load(directory: Path, params: Vgg, spec: Spec) -> nn.Module:
    return sequential.filled(build(params, spec), directory)
