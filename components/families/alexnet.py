"""AlexNet (Krizhevsky et al., 2012), one tower, without response normalisation, scaled to the input.

Five convolutions, the first, second and last with an overlapping 3x3 pooling, which is left out where one pixel is
left. The first is 11x11 with stride 4, below 64 pixels a side 5x5 with stride 1.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data import Spec
from components.params import Alexnet

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def pruned(module: nn.Module, params: Alexnet) -> Alexnet:
    widths = [layer.out_channels for layer in _layers(module, "Conv2d").values()]
    hidden = [layer.out_features for layer in _layers(module, "Linear").values()][:-1]
    return params.model_copy(update={"widths": widths, "hidden": hidden})


def save(module: nn.Module, directory: Path) -> None:
    from safetensors.torch import save_model

    save_model(module, str(directory / "model.safetensors"))


def load(directory: Path, params: Alexnet, spec: Spec) -> nn.Module:
    from safetensors.torch import load_model

    module = build(params, spec)
    load_model(module, str(directory / "model.safetensors"))
    return module
