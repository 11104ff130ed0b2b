"""What each augmentation does to tokens, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from components.augment import for_rows
from components.augment_text import AUGMENTATIONS, special
from components.errors import TrainingError
from components.params import AUGMENTATIONS_OF_TEXT, Augmentation
from tests.components import texts

MASK = texts.VOCABULARY.mask
KINDS = ["token_mask", "token_replace", "token_drop"]


def batch() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(x) for name, x in texts.rows("train").inputs.items()}


def changed(*params: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    several: list[Augmentation] = TypeAdapter(list[Augmentation]).validate_python(list(params))
    torch.manual_seed(seed)
    inputs, labels = for_rows(several, batch(), texts.SPEC)(batch(), torch.zeros(160))
    assert torch.equal(labels, torch.zeros(160))
    return dict(inputs)


def test_every_kind_is_one_of_text() -> None:
    assert set(AUGMENTATIONS) == set(KINDS)
    assert {one.model_fields["kind"].annotation.__args__[0] for one in AUGMENTATIONS_OF_TEXT} == set(KINDS)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_and_padding_stay(kind: str) -> None:
    before, after = batch(), changed({"kind": kind, "probability": 0.9})
    for token in (texts.VOCABULARY.start, texts.VOCABULARY.separator):
        assert torch.equal((before["input_ids"] == token).sum(1), (after["input_ids"] == token).sum(1))
    assert torch.equal(after["attention_mask"], (after["input_ids"] != texts.VOCABULARY.padding).long())
    assert (after["input_ids"][:, 0] == texts.VOCABULARY.start).all()
    assert not torch.equal(before["input_ids"], after["input_ids"])
    assert after["input_ids"].dtype == torch.int64


@pytest.mark.parametrize("kind", KINDS)
def test_the_drawn_share_is_the_probability_and_the_state_decides(kind: str) -> None:
    before, after = batch(), changed({"kind": kind, "probability": 0.3})
    own = ~torch.isin(before["input_ids"], torch.tensor(special(texts.VOCABULARY)))
    if kind == "token_drop":
        touched = before["attention_mask"].sum() - after["attention_mask"].sum()
    else:
        touched = (before["input_ids"] != after["input_ids"]).sum()
    # A random token may be the same one again.
    assert 0.25 < float(touched) / float(own.sum()) < 0.35
    again = changed({"kind": kind, "probability": 0.3})
    assert all(torch.equal(again[name], after[name]) for name in after)
    other = changed({"kind": kind, "probability": 0.3}, seed=1)
    assert not torch.equal(other["input_ids"], after["input_ids"])


def test_masked_is_the_mask_and_replaced_is_ordinary() -> None:
    before = batch()["input_ids"]
    masked = changed({"kind": "token_mask", "probability": 0.5})["input_ids"]
    assert (masked[masked != before] == MASK).all()
    replaced = changed({"kind": "token_replace", "probability": 0.5})["input_ids"]
    new = replaced[replaced != before]
    assert not set(new.tolist()) & set(special(texts.VOCABULARY))
    assert len(new.unique()) > 40


def test_what_is_dropped_closes_up_and_one_stays() -> None:
    before, after = batch(), changed({"kind": "token_drop", "probability": 0.99})
    for row, left in zip(before["input_ids"].tolist(), after["input_ids"].tolist(), strict=True):
        kept = [token for token in left if token]
        rest = iter(row)
        assert all(token in rest for token in kept), "in their order"
        assert left[: len(kept)] == kept, "padding on the right"
        assert len(kept) >= 3


def test_image_kinds_are_refused_for_tokens() -> None:
    with pytest.raises(TrainingError, match="flip is for images, and the inputs are tokens; take one of: token_mask"):
        changed({"kind": "flip", "horizontal": True, "vertical": False, "probability": 0.5})
