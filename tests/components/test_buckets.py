import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components import buckets


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 9), st.booleans())
def test_an_epoch_has_every_row_once_whatever_the_lengths(rows: int, size: int, seed: int, text: bool) -> None:
    lengths = torch.randint(1, 64, (rows,), generator=torch.Generator().manual_seed(seed)) if text else None
    found = buckets.epoch(rows, lengths, size, seed)
    assert torch.cat(found).sort().values.tolist() == list(range(rows))
    assert max(map(len, found)) <= size + 1


def test_rows_of_like_length_are_together_and_epochs_differ() -> None:
    lengths = torch.randint(8, 64, (2000,), generator=torch.Generator().manual_seed(1))
    padded = {}
    for name, known in (("plain", None), ("bucketed", lengths)):
        batches = buckets.epoch(2000, known, 32, 0)
        padded[name] = sum(int((lengths[rows].max() - lengths[rows]).sum()) for rows in batches)
    assert padded["bucketed"] < 0.1 * padded["plain"]
    assert [b.tolist() for b in buckets.epoch(2000, lengths, 32, 0)] != [
        b.tolist() for b in buckets.epoch(2000, lengths, 32, 1)
    ]
    longest = [int(lengths[rows].max()) for rows in buckets.epoch(2000, lengths, 32, 0)]
    assert longest != sorted(longest), "batches come in no order of length"


@pytest.mark.parametrize("rows", [1, 9, 17])
def test_no_batch_of_one_row_is_left_over(rows: int) -> None:
    assert min(map(len, buckets.epoch(rows, None, 8, 0))) >= min(rows, 2)
