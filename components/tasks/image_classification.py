"""Image classification: one image in, one of `classes` out. Raw input `image`: float32 (batch, *shape)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from components.data import Spec

if TYPE_CHECKING:
    from torch import Tensor


def statistics(inputs: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Mean and standard deviation per channel of raw training images (n, height, width[, channels])."""
    images = inputs["image"]
    pixels = images.reshape(-1, images.shape[3] if images.ndim == 4 else 1).astype(np.float64)
    return {"mean": pixels.mean(0).tolist(), "std": np.maximum(pixels.std(0), 1e-6).tolist()}


def preprocess(inputs: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Raw images (batch, height, width[, channels]) to normalised pixel_values (batch, channels, height, width)."""
    import torch

    image = inputs["image"]
    image = image.unsqueeze(1) if image.ndim == 3 else image.permute(0, 3, 1, 2)
    mean = torch.tensor(spec.statistics["mean"]).view(1, -1, 1, 1)
    std = torch.tensor(spec.statistics["std"]).view(1, -1, 1, 1)
    return {"pixel_values": (image - mean) / std}


def loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, labels, label_smoothing=label_smoothing)


def metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and the accuracy of the class that fares worst (classes without rows are left out)."""
    right = logits.argmax(1) == labels
    return {
        "accuracy": float(right.mean()),
        "worst_class_accuracy": min(float(right[labels == label].mean()) for label in np.unique(labels)),
    }
