"""What families share whose module is an `nn.Sequential` of plain layers, the classifier last, or is saved like one.

A family takes of these what fits: `logits = sequential.logits`. It reloads by `safetensors.torch.load_model` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "model.safetensors"


def logits(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    result: Tensor = module(inputs["pixel_values"])
    return result


def features(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """What comes before the classifier: the last hidden layer; without one, the flattened channels."""
    result: Tensor = module[:-1](inputs["pixel_values"])
    return result


def layers(module: nn.Module, kind: str) -> dict[str, Any]:
    """Those of a kind, `Conv2d` or `Linear`, by name, first to last."""
    return {name: layer for name, layer in module.named_modules() if type(layer).__name__ == kind}


def lora_targets(module: nn.Module) -> list[str]:
    return [*layers(module, "Conv2d"), *layers(module, "Linear")]


def prunable(module: nn.Module) -> Sequence[nn.Module]:
    """All but the classifier."""
    return [*layers(module, "Conv2d").values(), *layers(module, "Linear").values()][:-1]


def widths(module: nn.Module) -> tuple[list[int], list[int]]:
    """(channels of the convolutions, outputs of the linear layers but the classifier)"""
    convolutions, linear = layers(module, "Conv2d").values(), layers(module, "Linear").values()
    return [layer.out_channels for layer in convolutions], [layer.out_features for layer in linear][:-1]


def save(module: nn.Module, directory: Path) -> None:
    from safetensors.torch import save_model

    save_model(module, str(directory / WEIGHTS))


def filled(module: nn.Module, directory: Path) -> nn.Module:
    """The module with the weights that `save` left there."""
    from safetensors.torch import load_model

    load_model(module, str(directory / WEIGHTS))
    return module
