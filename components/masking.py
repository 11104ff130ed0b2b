"""Masked tokens and next sentences as BERT is trained on (Devlin et al., arXiv 1810.04805).

All that is drawn comes from torch's global random state, which checkpoints keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from components.augment_text import ordinary, random_tokens
from components.data import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

MASKED, CHANGED = 0.8, 0.1  # of the chosen tokens; the rest stays as it is


def mask(inputs: Mapping[str, Tensor], vocabulary: Vocabulary, ratio: float) -> tuple[Tensor, Tensor]:
    """input_ids with some tokens hidden, and which were chosen, bool (batch, length): never special ones.

    At least one is chosen, if there is any.
    """
    import torch

    ids, able = inputs["input_ids"], ordinary(inputs, vocabulary)
    drawn = torch.rand(ids.shape).masked_fill(~able, 2.0)
    chosen = drawn < max(ratio, float(drawn.min()) + 1e-6) if able.any() else able
    share = torch.rand(ids.shape)
    changed = random_tokens(ids, vocabulary)
    hidden = ids.masked_fill(chosen & (share < MASKED), vocabulary.mask)
    return changed.where(chosen & (share >= 1 - CHANGED), hidden), chosen


def halves(row: np.ndarray, ends: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Cut at the sentence end nearest to the middle that leaves something on both sides; else in the middle."""
    after = np.flatnonzero(np.isin(row[:-1], ends)) + 1
    at = int(after[np.abs(after - len(row) / 2).argmin()]) if len(after) else len(row) // 2
    return row[:at], row[at:]


def pairs(raw: Mapping[str, Tensor], vocabulary: Vocabulary, width: int) -> tuple[dict[str, Tensor], Tensor]:
    """Rows as pairs [start] A [separator] B [separator], and of each 1 if its B is another row's, else 0.

    Half of the rows get another's, from the same batch: rows of like length. The longer part is cut, at its outer end,
    to fit into `width` tokens.
    """
    import torch

    count = len(raw["input_ids"])
    kept = raw["attention_mask"].bool().numpy()
    around = [vocabulary.start, vocabulary.separator, vocabulary.padding]
    parts = []
    for ids, real in zip(raw["input_ids"].numpy(), kept, strict=True):
        text = ids[real]
        parts.append(halves(text[~np.isin(text, around)], vocabulary.sentence_ends))
    other = torch.rand(count) < (0.5 if count > 1 else 0.0)
    partner = (np.arange(count) + int(torch.randint(1, max(count, 2), ()))) % count
    rows, first = [], []
    for number, (a, _) in enumerate(parts):
        b = parts[partner[number] if other[number] else number][1]
        while len(a) + len(b) + 3 > width:
            a, b = (a[1:], b) if len(a) > len(b) else (a, b[:-1])
        rows.append([vocabulary.start, *a, vocabulary.separator, *b, vocabulary.separator])
        first.append(len(a) + 2)
    longest = max(map(len, rows))
    made = torch.full((count, longest), vocabulary.padding, dtype=raw["input_ids"].dtype)
    for number, row in enumerate(rows):
        made[number, : len(row)] = torch.tensor(row, dtype=made.dtype)
    place, lengths = torch.arange(longest), torch.tensor([len(row) for row in rows]).unsqueeze(1)
    real = place < lengths
    second = real & (place >= torch.tensor(first).unsqueeze(1))
    like = raw["attention_mask"].dtype
    return {"input_ids": made, "attention_mask": real.to(like), "token_type_ids": second.to(like)}, other.long()
