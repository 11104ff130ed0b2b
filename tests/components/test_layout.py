"""The order in memory that is faster, but where it would spoil the memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The last batch of an epoch is odd: then the corruption reaches what the allocator keeps between blocks.
CHILD = """
import torch
from torch import nn
from components.layout import for_training
layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 20, 1, stride=2))
layout = for_training(layers)
layers.to(memory_format=layout)
for _ in range(100):
    with torch.autocast("cpu", torch.bfloat16):
        layers(torch.randn(25, 1, 28, 28).to(memory_format=layout)).pow(2).mean().backward()
"""


def test_training_a_narrow_shortcut_does_not_crash(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "groups", "last"),
    [(8, 1, 2, 1, False), (16, 1, 2, 1, True), (32, 1, 2, 4, False), (8, 1, 1, 1, True), (8, 3, 2, 1, True)],
)
def test_channels_last_but_for_a_narrow_shortcut(
    channels: int, kernel: int, stride: int, groups: int, last: bool
) -> None:
    import torch

    from components.layout import for_training

    layers = torch.nn.Sequential(torch.nn.Conv2d(channels, 32, kernel, stride, groups=groups))
    assert for_training(layers) == (torch.channels_last if last else torch.contiguous_format)
