"""Image classification: one image in, one of `classes` out. Raw input `image`: float32 (batch, *shape)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.classification import loss, metrics
from components.data import Case, Spec, Suspect
from components.params import Parity

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["grid", "loss", "metrics", "preprocess", "suspects"]


def preprocess(inputs: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Raw images (batch, height, width[, channels]) to normalised pixel_values (batch, channels, height, width)."""
    import torch

    image = inputs["image"]
    image = image.unsqueeze(1) if image.ndim == 3 else image.permute(0, 3, 1, 2)
    mean = torch.tensor(spec.statistics["mean"]).view(1, -1, 1, 1)
    std = torch.tensor(spec.statistics["std"]).view(1, -1, 1, 1)
    return {"pixel_values": (image - mean) / std}


def grid(inputs: Mapping[str, np.ndarray], parity: Parity) -> Iterator[Case]:
    """Exporters and quantizers go wrong at some batch sizes only, 1 above all."""
    for size in parity.batch_sizes:
        yield Case(f"batch {size}", size, inputs)


def suspects(spec: Spec) -> list[Suspect]:
    """Images normalised with another mean and standard deviation than the spec's: none, of 0 to 1, or any."""
    mean, std = (np.array(spec.statistics[key]) for key in ("mean", "std"))
    channels, gray = len(mean), len(spec.shape) == 2

    def change(inputs: Mapping[str, np.ndarray], values: Sequence[float]) -> dict[str, np.ndarray]:
        shift, scale = np.array(values[:channels]), np.array(values[channels:])
        image = inputs["image"][..., None] if gray else inputs["image"]
        moved = ((image - shift) / scale * std + mean).astype(np.float32)
        return {"image": moved[..., 0] if gray else moved}

    def words(values: Sequence[float]) -> str:
        used, right = [f"{value:.3g}" for value in values], [f"{value:.4g}" for value in [*mean, *std]]
        return (
            f"stale preprocessing: these are the answers to images normalised with mean {', '.join(used[:channels])} "
            f"and std {', '.join(used[channels:])}, the data have mean {', '.join(right[:channels])} and std "
            f"{', '.join(right[channels:])}"
        )

    known = [(0.0, 1.0), (0.0, 255.0), (127.5, 127.5)]
    starts = [[shift] * channels + [scale] * channels for shift, scale in known]
    return [Suspect(words, change, [*starts, [*mean, *std]], fit=True)]
