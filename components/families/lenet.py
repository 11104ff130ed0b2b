"""LeNet-5 (LeCun et al., 1998): two 5x5 convolutions with tanh and average pooling, then linear layers with tanh.

As there, images are padded before the first convolution and not before the second, except those of less than 12
pixels a side. The subsampling has no weights and the output is linear.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data import Spec
from components.params import Lenet

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def logits(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    result: Tensor = module(inputs["pixel_values"])
    return result


def features(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The last hidden layer."""
    result: Tensor = module[:-1](inputs["pixel_values"])
    return result


def _layers(module: nn.Module, kind: str) -> dict[str, Any]:
    return {name: layer for name, layer in module.named_modules() if type(layer).__name__ == kind}


def lora_targets(module: nn.Module) -> list[str]:
    return [*_layers(module, "Conv2d"), *_layers(module, "Linear")]


def prunable(module: nn.Module) -> Sequence[nn.Module]:
    return [*_layers(module, "Conv2d").values(), *_layers(module, "Linear").values()][:-1]


def pruned(module: nn.Module, params: Lenet) -> Lenet:
    widths = [layer.out_channels for layer in _layers(module, "Conv2d").values()]
    hidden = [layer.out_features for layer in _layers(module, "Linear").values()][:-1]
    return params.model_copy(update={"widths": widths, "hidden": hidden})


def save(module: nn.Module, directory: Path) -> None:
    from safetensors.torch import save_model

    save_model(module, str(directory / "model.safetensors"))


def load(directory: Path, params: Lenet, spec: Spec) -> nn.Module:
    from safetensors.torch import load_model

    module = build(params, spec)
    load_model(module, str(directory / "model.safetensors"))
    return module
