"""Masked tokens in their shares, and pairs of sentences."""

from __future__ import annotations

import numpy as np
import torch

from components import masking
from components.augment_text import ordinary
from tests.components import texts

V = texts.VOCABULARY


def batch(count: int = 160) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(x) for name, x in texts.rows("train", count).inputs.items()}


def test_15_percent_are_chosen_and_80_10_10_become_mask_other_and_same() -> None:
    torch.manual_seed(0)
    inputs = {name: x.repeat(30, 1) for name, x in batch().items()}
    ids, chosen = masking.mask(inputs, V, 0.15)
    own = ordinary(inputs, V)
    assert not (chosen & ~own).any()
    assert torch.equal(ids[~chosen], inputs["input_ids"][~chosen])
    assert abs(float(chosen.sum() / own.sum()) - 0.15) < 0.01
    was, now = inputs["input_ids"][chosen], ids[chosen]
    assert abs(float((now == V.mask).float().mean()) - 0.8) < 0.02
    other = (now != V.mask) & (now != was)
    assert abs(float(other.float().mean()) - 0.1) < 0.02
    assert (now[other] > V.mask).all(), "special tokens are no replacement"


def test_one_is_chosen_if_there_is_any() -> None:
    torch.manual_seed(0)
    few = {name: x[:1] for name, x in batch().items()}
    for _ in range(20):
        assert masking.mask(few, V, 1e-9)[1].sum() == 1
    empty = {"input_ids": torch.tensor([[V.start, V.separator]]), "attention_mask": torch.ones(1, 2).long()}
    ids, chosen = masking.mask(empty, V, 0.5)
    assert not chosen.any() and torch.equal(ids, empty["input_ids"])


def test_halves_are_cut_at_the_sentence_end_nearest_to_the_middle() -> None:
    def cut(*row: int) -> tuple[list[int], list[int]]:
        a, b = masking.halves(np.array(row), [5, 6])
        return a.tolist(), b.tolist()

    assert cut(5, 8, 9, 10, 6, 11, 12) == ([5, 8, 9, 10, 6], [11, 12])
    assert cut(8, 9, 10, 5) == ([8, 9], [10, 5]), "an end that leaves nothing is none"
    assert cut(8, 9, 10) == ([8], [9, 10])
    assert cut(8) == ([], [8])


def test_half_of_the_pairs_go_on_with_another_row() -> None:
    torch.manual_seed(0)
    made, other = masking.pairs(batch(), V, texts.WIDTH)
    ids, types = made["input_ids"], made["token_type_ids"]
    assert 50 < int(other.sum()) < 110
    assert ids.shape[1] <= texts.WIDTH
    assert torch.equal(made["attention_mask"], (ids != V.padding).long())
    assert ((ids == V.separator).sum(1) == 2).all() and (ids[:, 0] == V.start).all()
    texts_of = [[t for t in row if t > V.mask] for row in batch()["input_ids"].tolist()]
    for number, (row, kind) in enumerate(zip(ids.tolist(), types.tolist(), strict=True)):
        first = row.index(V.separator)
        a = row[1:first]
        b = row[first + 1 : row.index(V.separator, first + 1)]
        assert kind == [0] * (first + 1) + [1] * (len(b) + 1) + [0] * (len(row) - len(b) - first - 2)
        whole = texts_of[number]
        cut = masking.halves(np.array(whole), V.sentence_ends)
        assert a == cut[0].tolist()[-len(a) :]
        follows = b == cut[1].tolist()[: len(b)]
        assert follows or other[number]
    wrong = [
        number
        for number in range(160)
        if other[number]
        and ids[number].tolist()
        == masking.pairs({k: x[number : number + 1] for k, x in batch().items()}, V, texts.WIDTH)[0]["input_ids"][
            0
        ].tolist()
    ]
    assert not wrong, "another row's second half is not its own"


def test_a_row_alone_goes_on_with_itself() -> None:
    torch.manual_seed(0)
    for _ in range(10):
        assert masking.pairs(batch(1), V, texts.WIDTH)[1].tolist() == [0]


def test_a_full_pair_is_one_token_longer_than_its_row_and_still_fits() -> None:
    ids = torch.randint(8, 60, (2, texts.WIDTH))
    ids[:, 0], ids[:, -1] = V.start, V.separator
    made, _ = masking.pairs({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, V, texts.WIDTH)
    assert made["input_ids"].shape[1] == texts.WIDTH
