"""Which rows make a training batch: as they come or, of text, such as are of like length, so that little is padded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

POOL = 32  # batches' worth of rows that are sorted by length: fewer pad more, more mix rows less


def batches(rows: Tensor, size: int) -> list[Tensor]:
    """Row numbers in order, `size` at a time. A single row left over joins the batch before it: normalisation by the
    batch can find no variance in one value a channel, and torch refuses it."""
    import torch

    parts = list(torch.split(rows, size))
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def epoch(rows: int, lengths: Tensor | None, size: int, seed: int) -> list[Tensor]:
    """Numbers of all rows, shuffled by this seed alone, in batches of `size`.

    With `lengths`, a batch has rows of like length: each pool of the shuffled rows is sorted, and its batches are
    shuffled.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(rows, generator=generator)
    if lengths is None:
        return batches(shuffled, size)
    sorted_pools = [pool[lengths[pool].argsort(stable=True)] for pool in torch.split(shuffled, size * POOL)]
    parts = batches(torch.cat(sorted_pools), size)
    return [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]
