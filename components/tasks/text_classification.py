"""Text classification: a text, or a pair of texts, in, one of `classes` out.

Raw inputs are int64 (batch, length): input_ids, attention_mask and, of pairs, token_type_ids; length is at most the
spec's, padding on the right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.classification import loss, metrics
from components.data import Case, Spec, Suspect, trimmed
from components.params import Parity

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["grid", "loss", "metrics", "preprocess", "suspects"]

HIDDEN_SHARE = 0.2  # of a row's tokens under a mask with holes


def preprocess(inputs: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """As they are: tokens need none."""
    return dict(inputs)


def grid(inputs: Mapping[str, np.ndarray], parity: Parity) -> Iterator[Case]:
    """Every batch size at the full length; the largest also short, with padding on the left and with holes.

    Right-padded rows do not show a mask that was turned into lengths.
    """
    length = inputs["attention_mask"].shape[1]
    for size in parity.batch_sizes:
        yield Case(f"batch {size}, length {length}", size, inputs, padded=True)
    size = max(parity.batch_sizes)
    short = {name: x[:, : max(length // 4, 2)] for name, x in inputs.items()}
    yield Case(f"batch {size}, length {max(length // 4, 2)}", size, short, padded=True)
    lengths = inputs["attention_mask"].sum(1)
    alike = lengths == np.bincount(lengths).argmax()  # as many as can be: of one row alone no share could be told
    whole = dict(trimmed({name: x[alike] for name, x in inputs.items()}))
    yield Case(f"batch 1, length {whole['attention_mask'].shape[1]}, no padding", 1, whole)
    yield Case(f"batch {size}, length {length}, left padding", size, _left(inputs), padded=True)
    yield Case(f"batch {size}, length {length}, holes in the mask", size, _holes(inputs), padded=True)


def _left(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same rows with their padding moved to the left."""
    mask = inputs["attention_mask"]
    columns = np.arange(mask.shape[1]) + mask.sum(1, keepdims=True)  # where each place's token stands now
    return {name: np.take_along_axis(x, columns % mask.shape[1], 1) for name, x in inputs.items()}


def _holes(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Some tokens hidden from the others, the first, which the classifier may look at, never."""
    mask = inputs["attention_mask"]
    hidden = np.random.default_rng(0).random(mask.shape) < HIDDEN_SHARE
    hidden[:, 0] = False
    return {**inputs, "attention_mask": np.where(hidden, 0, mask)}


def suspects(spec: Spec) -> list[Suspect]:
    """A mask that is not looked at, and one that is taken for the number of tokens from the left."""

    def ignored(inputs: Mapping[str, np.ndarray], values: Sequence[float]) -> dict[str, np.ndarray]:
        return {**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])}

    def lengths(inputs: Mapping[str, np.ndarray], values: Sequence[float]) -> dict[str, np.ndarray]:
        mask = inputs["attention_mask"]
        left = np.arange(mask.shape[1]) < mask.sum(1, keepdims=True)
        return {**inputs, "attention_mask": left.astype(mask.dtype)}

    return [
        Suspect(lambda values: "the mask is ignored: these are the answers with padding read as text", ignored),
        Suspect(
            lambda values: (
                "the mask is taken for lengths: these are the answers to as many tokens from the left; a "
                "fused attention does this unless it is given the raw mask"
            ),
            lengths,
        ),
    ]
