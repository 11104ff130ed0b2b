"""What tasks that choose one of several classes share: loss and metrics on logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from components.params import Loss

if TYPE_CHECKING:
    from torch import Tensor


def loss(logits: Tensor, labels: Tensor, params: Loss) -> Tensor:
    """Mean over the batch; labels are class numbers (batch,) or probabilities (batch, classes).

    mse and huber are the logits' distance from the labels' probabilities, mean over the classes too, without a
    softmax, as in Hui & Belkin (arXiv 2006.07322); such logits are no log-probabilities.
    """
    from torch.nn import functional

    if params.kind == "cross_entropy":
        return functional.cross_entropy(logits, labels, label_smoothing=params.label_smoothing)
    if params.kind == "weighted":
        return sum((term.weight * loss(logits, labels, term.loss) for term in params.terms), logits.new_zeros(()))
    wanted = (functional.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels).to(logits.dtype)
    if params.kind == "mse":
        return functional.mse_loss(logits, wanted)
    return functional.huber_loss(logits, wanted, delta=params.delta)


def metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and the accuracy of the class that fares worst (classes without rows are left out)."""
    right = logits.argmax(1) == labels
    return {
        "accuracy": float(right.mean()),
        "worst_class_accuracy": min(float(right[labels == label].mean()) for label in np.unique(labels)),
    }
