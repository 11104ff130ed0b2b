from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import Refused
from components.params import Parity
from components.parity import batches, check, kl_divergence

LIMITS = Parity(
    batch_sizes=[1, 3, 8], rows=16, max_export_difference=0.01, min_export_agreement=1.0, min_build_agreement=0.9
)
AGREE, DIFFER = ("min_build_agreement", 0.9), ("max_export_difference", 0.01)
IMAGES = {"image": np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)}


def model(inputs: dict[str, np.ndarray]) -> np.ndarray:
    return inputs["image"][:, :3]


def test_the_same_answers_pass_and_tell_the_grid() -> None:
    figures = check("a -> b", model, model, IMAGES, LIMITS, AGREE, DIFFER)
    assert figures["agreement"] == 1 and figures["max_logit_difference"] == 0 and figures["kl"] == 0
    assert [(row["batch_size"], row["rows"]) for row in figures["grid"]] == [(1, 10), (3, 9), (8, 8)]


def test_a_fault_at_one_batch_size_is_found_and_named() -> None:
    def broken(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return model(inputs) + (0.7 if len(inputs["image"]) == 3 else 0)

    with pytest.raises(Refused, match=r"a -> b, batch 3: largest logit difference 0.7 > 0.01 \(parity.max_export"):
        check("a -> b", model, broken, IMAGES, LIMITS, AGREE, DIFFER)


def test_swapped_classes_are_refused_with_numbers() -> None:
    with pytest.raises(Refused, match=r"batch 1: \d+ of 10 top answers differ, agreement .* < 0.9 \(parity.min_build"):
        check("a -> b", model, lambda x: model(x)[:, ::-1], IMAGES, LIMITS, AGREE)


@pytest.mark.parametrize(("ours", "theirs", "side"), [(np.nan, 0, "a"), (0, np.inf, "b")])
def test_what_is_not_finite_is_refused(ours: float, theirs: float, side: str) -> None:
    with pytest.raises(Refused, match=f"{side} answers NaN or infinity for 10 of 10 rows"):
        check("a -> b", lambda x: model(x) + ours, lambda x: model(x) + theirs, IMAGES, LIMITS, AGREE)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(Refused, match=r"shape \(1, 2\), must have \(1, 3\)"):
        check("a -> b", model, lambda x: model(x)[:, :2], IMAGES, LIMITS, AGREE)


@given(rows=st.integers(1, 20), batch_size=st.integers(1, 40), wanted=st.integers(1, 30))
def test_every_batch_is_full(rows: int, batch_size: int, wanted: int) -> None:
    inputs = {"image": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)}
    parts = batches(inputs, batch_size, wanted)
    assert parts and all(len(part["image"]) == batch_size for part in parts)
    assert len(parts) * batch_size <= max(min(wanted, rows), batch_size)


@given(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), st.floats(-50, 50, width=32))
def test_kl_is_not_negative_and_ignores_a_shift(logits: list[float], shift: float) -> None:
    ours = np.array([logits], dtype=np.float32)
    assert kl_divergence(ours, ours) == 0
    assert kl_divergence(ours, ours[:, ::-1]) >= 0
    assert kl_divergence(ours, ours + np.float32(shift)) < 1e-4
