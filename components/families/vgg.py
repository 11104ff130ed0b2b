"""VGG (Simonyan and Zisserman, arXiv 1409.1556) with batch normalisation, scaled to the input.

Stages of 3x3 convolutions, each with a 2x2 pooling at its end, which is left out where one pixel is left; then linear
layers.

Reloads without Temper: an `nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data import Spec
from components.params import Vgg

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def logits(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    result: Tensor = module(inputs["pixel_values"])
    return result


def features(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The last hidden layer; without one, the flattened channels."""
    result: Tensor = module[:-1](inputs["pixel_values"])
    return result


def _layers(module: nn.Module, kind: str) -> dict[str, Any]:
    return {name: layer for name, layer in module.named_modules() if type(layer).__name__ == kind}


def lora_targets(module: nn.Module) -> list[str]:
    return [*_layers(module, "Conv2d"), *_layers(module, "Linear")]


def prunable(module: nn.Module) -> Sequence[nn.Module]:
    return [*_layers(module, "Conv2d").values(), *_layers(module, "Linear").values()][:-1]


def pruned(module: nn.Module, params: Vgg) -> Vgg:
    widths = iter([layer.out_channels for layer in _layers(module, "Conv2d").values()])
    hidden = [layer.out_features for layer in _layers(module, "Linear").values()][:-1]
    return params.model_copy(
        update={"stages": [[next(widths) for _ in stage] for stage in params.stages], "hidden": hidden}
    )


def save(module: nn.Module, directory: Path) -> None:
    from safetensors.torch import save_model

    save_model(module, str(directory / "model.safetensors"))


def load(directory: Path, params: Vgg, spec: Spec) -> nn.Module:
    from safetensors.torch import load_model

    module = build(params, spec)
    load_model(module, str(directory / "model.safetensors"))
    return module
