"""Residual network of basic blocks (He et al., arXiv 1512.03385, section 4.2), scaled by its params.

A stem, then stages of blocks: two 3x3 convolutions with batch normalisation beside a shortcut. Each stage but the
first halves the image, with a 1x1 convolution as the shortcut of its first block. Reloads without Temper: an
`nn.Sequential` of these layers and `safetensors.torch.load_model`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import sequential
from components.data import Spec
from components.params import Resnet

if TYPE_CHECKING:
    from torch import Tensor, nn

logits, save = sequential.logits, sequential.save


def build(params: Resnet, spec: Spec) -> nn.Module:
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, inside: nn.Module, shortcut: nn.Module) -> None:
            super().__init__()
            self.inside, self.shortcut, self.relu = inside, shortcut, nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.relu(self.inside(x) + self.shortcut(x))
            return result

    def convolution(width: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return [layer, nn.BatchNorm2d(out)]

    def block(width: int, inner: int, out: int, stride: int) -> nn.Module:
        inside = nn.Sequential(*convolution(width, inner, 3, stride), nn.ReLU(), *convolution(inner, out, 3))
        # Where the stride says so, and not where the widths differ: pruning changes widths.
        return Residual(inside, nn.Identity() if stride == 1 else nn.Sequential(*convolution(width, out, 1, stride)))

    channels = spec.shape[2] if len(spec.shape) == 3 else 1
    first = params.widths[0]
    if params.stem == "cifar":
        stem = nn.Sequential(*convolution(channels, first, 3), nn.ReLU())
    else:
        stem = nn.Sequential(*convolution(channels, first, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
    inner = params.inner_widths or [
        [width] * blocks for width, blocks in zip(params.widths, params.blocks, strict=True)
    ]
    stages = nn.Sequential()
    for number, (width, out) in enumerate(pairwise([first, *params.widths])):
        stride = 2 if number else 1
        blocks = [block(width, inner[number][0], out, stride)]
        stages.append(nn.Sequential(*blocks, *(block(out, narrow, out, 1) for narrow in inner[number][1:])))
    layers: dict[str, nn.Module] = {
        "stem": stem,
        "stages": stages,
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "dropout": nn.Dropout(params.dropout),
        "classifier": nn.Linear(params.widths[-1], len(spec.classes)),
    }
    return nn.Sequential(OrderedDict(layers))


def features(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The last stage's channels, averaged over the image."""
    result: Tensor = module[:-2](inputs["pixel_values"])
    return result


def _convolutions(module: nn.Module) -> dict[str, nn.Conv2d]:
    from torch import nn

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}


def blocks(module: Any) -> list[nn.Module]:
    return [module.stem, *(block for stage in module.stages for block in stage)]


def lora_targets(module: nn.Module) -> list[str]:
    return [*_convolutions(module), "classifier"]


def prunable(module: nn.Module) -> Sequence[nn.Module]:
    """Every convolution; those that are added to each other lose the same channels."""
    return list(_convolutions(module).values())


def pruned(module: Any, params: Resnet) -> Resnet:
    inner = [[block.inside[0].out_channels for block in stage] for stage in module.stages]
    widths = [stage[-1].inside[3].out_channels for stage in module.stages]
    return params.model_copy(update={"widths": widths, "inner_widths": inner})


def load(directory: Path, params: Resnet, spec: Spec) -> nn.Module:
    return sequential.filled(build(params, spec), directory)
