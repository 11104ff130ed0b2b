"""What is done to a training batch of tokens before the model sees it: a member a kind, in the order of fit.augment.

Masking words for a student: Tang et al., arXiv 1903.12136; random words and gaps: Wei & Zou, arXiv 1901.11196. Special
tokens stay. All that is drawn comes from torch's global random state, which checkpoints keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.data import Vocabulary
from components.errors import TrainingError
from components.params import Augmentation, TokenDrop, TokenMask, TokenReplace

if TYPE_CHECKING:
    from torch import Tensor

Inputs = Mapping[str, "Tensor"]


def special(vocabulary: Vocabulary) -> list[int]:
    return [vocabulary.padding, vocabulary.unknown, vocabulary.start, vocabulary.separator, vocabulary.mask]


def ordinary(inputs: Inputs, vocabulary: Vocabulary) -> Tensor:
    """Bool (batch, length): tokens of the text itself."""
    import torch

    reserved = torch.tensor(special(vocabulary))
    return inputs["attention_mask"].bool() & ~torch.isin(inputs["input_ids"], reserved)


def random_tokens(like: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Any but special ones, evenly."""
    import torch

    known = torch.arange(vocabulary.size)
    able = known[~torch.isin(known, torch.tensor(special(vocabulary)))]
    return able[torch.randint(len(able), like.shape)].to(like.dtype)


def _drawn(inputs: Inputs, vocabulary: Vocabulary, probability: float) -> Tensor:
    import torch

    return ordinary(inputs, vocabulary) & (torch.rand(inputs["input_ids"].shape) < probability)


def _mask(params: TokenMask, inputs: Inputs, vocabulary: Vocabulary) -> Inputs:
    drawn = _drawn(inputs, vocabulary, params.probability)
    return {**inputs, "input_ids": inputs["input_ids"].masked_fill(drawn, vocabulary.mask)}


def _replace(params: TokenReplace, inputs: Inputs, vocabulary: Vocabulary) -> Inputs:
    drawn, ids = _drawn(inputs, vocabulary, params.probability), inputs["input_ids"]
    return {**inputs, "input_ids": random_tokens(ids, vocabulary).where(drawn, ids)}


def _drop(params: TokenDrop, inputs: Inputs, vocabulary: Vocabulary) -> Inputs:
    drawn = _drawn(inputs, vocabulary, params.probability)
    drawn &= (ordinary(inputs, vocabulary) & ~drawn).any(1, keepdim=True)  # a row that would lose all keeps all
    order = drawn.int().argsort(dim=1, stable=True)  # what stays comes first, in its order
    gone = drawn.gather(1, order)
    moved = {name: x.gather(1, order) for name, x in inputs.items()}
    filled = {"input_ids": vocabulary.padding, "attention_mask": 0, "token_type_ids": 0}
    return {name: x.masked_fill(gone, filled[name]) for name, x in moved.items()}


AUGMENTATIONS: dict[str, Callable[[Any, Inputs, Vocabulary], Inputs]] = {
    "token_mask": _mask,
    "token_replace": _replace,
    "token_drop": _drop,
}


def augmentation(
    params: Sequence[Augmentation], vocabulary: Vocabulary
) -> Callable[[Inputs, Tensor], tuple[Inputs, Tensor]]:
    """All of fit.augment for raw token inputs (batch, length). Raises TrainingError for what is for images."""
    import torch

    if others := [one.kind for one in params if one.kind not in AUGMENTATIONS]:
        able = ", ".join(AUGMENTATIONS)
        raise TrainingError(f"fit.augment: {others[0]} is for images, and the inputs are tokens; take one of: {able}")

    @torch.no_grad()
    def augment(raw: Inputs, labels: Tensor) -> tuple[Inputs, Tensor]:
        for one in params:
            raw = AUGMENTATIONS[one.kind](one, raw, vocabulary)
        return raw, labels

    return augment
