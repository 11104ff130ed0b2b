"""The gate refuses what answers differently, and names the place and, where one of the known faults explains it, that.

Masked tasks do not exist yet: `masked` is what one would bring, a grid with lengths, left padding and holes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from components.data import Case, Spec, Suspect
from components.diagnosis import overflow
from components.errors import Refused
from components.params import Parity
from components.parity import BUILD, batches, check, kl_divergence
from components.tasks import TASKS

LIMITS = Parity(
    batch_sizes=[1, 3, 8], rows=16, max_export_difference=0.01, min_export_agreement=1.0, min_build_agreement=0.9
)
BOTH = {"agreement": "min_build_agreement", "max_logit_difference": "max_export_difference"}
Inputs = Mapping[str, np.ndarray]
Answer = Callable[[Inputs], np.ndarray]


# --- images ---------------------------------------------------------------------------------------

IMAGES = {"image": np.random.default_rng(0).uniform(0, 16, (10, 4, 3, 2)).astype(np.float32)}
IMAGE_SPEC = Spec(
    task="image_classification",
    inputs={"image": "float32"},
    vocabulary=None,
    shape=[4, 3, 2],
    classes=["cat", "dog", "owl"],
    statistics={"mean": [7.0, 8.0], "std": [4.0, 5.0]},
)
WEIGHTS = np.random.default_rng(1).normal(size=(24, 3)).astype(np.float32)


def normalised(inputs: Inputs, mean: Sequence[float] = (7, 8), std: Sequence[float] = (4, 5)) -> np.ndarray:
    """A small network with a bend, so that it is no linear fit."""
    pixels = (inputs["image"] - np.float32(mean)) / np.float32(std)
    logits: np.ndarray = np.tanh(pixels.reshape(-1, 24)) @ WEIGHTS
    return logits


def gate(candidate: Answer, reference: Answer = normalised, **more: Any) -> dict[str, Any]:
    return check("a -> b", reference, candidate, IMAGES, IMAGE_SPEC, LIMITS, BOTH, **more)


def test_the_same_answers_pass_and_tell_the_grid() -> None:
    figures = gate(normalised)
    assert figures["agreement"] == 1 and figures["max_logit_difference"] == 0 and figures["kl"] == 0
    told = [(row["case"], row["batch_size"], row["rows"]) for row in figures["grid"]]
    assert told == [("batch 1", 1, 10), ("batch 3", 3, 9), ("batch 8", 8, 8)]


def test_a_fault_at_one_batch_size_is_found_and_named() -> None:
    def broken(inputs: Inputs) -> np.ndarray:
        return normalised(inputs) + (np.float32(0.7) * (len(inputs["image"]) == 3))

    words = (
        r"^a -> b, batch 3: largest logit difference 0.7 > 0.01 \(parity.max_export_difference\); only at batch 3; no"
    )
    with pytest.raises(Refused, match=words) as refused:
        gate(broken)
    grid = refused.value.figures["parity"]["grid"]
    assert [round(row["max_logit_difference"], 3) for row in grid] == [0, 0.7, 0]


def test_swapped_labels_are_named() -> None:
    words = (
        r"batch 1: \d+ of 10 top answers differ, agreement .* < 0.9 \(parity.min_build_agreement\); labels are swapped"
    )
    with pytest.raises(Refused, match=words + ".*'cat' stands at the place of 'owl', 'owl' stands at the place of"):
        gate(lambda inputs: normalised(inputs)[:, ::-1])
    noise = np.random.default_rng(0).normal(size=(10, 3)) * 0.05  # as quantization makes
    with pytest.raises(Refused, match=r"labels are swapped.*'dog' stands at the place of 'owl'"):
        gate(lambda inputs: normalised(inputs)[:, [0, 2, 1]] + noise[: len(inputs["image"])])


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0, 0), (1, 1)),
        ((0, 0), (255, 255)),
        ((5, 9.5), (3, 6)),
        ((0.5, 1), (2, 3)),
        ((7, 8), (2, 2.5)),
        ((6.5, 8), (4, 5)),
    ],
)
def test_stale_preprocessing_is_named_with_its_statistics(mean: tuple[float, float], std: tuple[float, float]) -> None:
    with pytest.raises(Refused, match=r"^a -> b, batch 1: .*; stale preprocessing: ") as refused:
        gate(lambda inputs: normalised(inputs, mean, std))
    used, right = str(refused.value).partition("normalised with mean ")[2].split(", the data have mean ")
    numbers = [float(number) for number in used.replace(" and std ", ", ").split(", ")]
    assert numbers == pytest.approx([*mean, *std], rel=0.05, abs=0.3)
    assert right == "7, 8 and std 4, 5"


def test_what_no_known_fault_explains_is_not_given_a_name() -> None:
    other = np.random.default_rng(2).normal(size=(24, 3)).astype(np.float32)

    def broken(inputs: Inputs) -> np.ndarray:
        logits: np.ndarray = np.tanh(inputs["image"].reshape(-1, 24) / 8 - 1) @ other
        return logits

    with pytest.raises(Refused, match=r"; no known fault explains it$"):
        gate(broken)


@pytest.mark.hardening("G39", "a difference that is too large")
def test_other_probabilities_are_refused_even_where_the_top_answers_are_the_same() -> None:
    def surer(inputs: Inputs) -> np.ndarray:
        return normalised(inputs) * np.float32(3)

    assert check("a -> b", normalised, surer, IMAGES, IMAGE_SPEC, LIMITS, BUILD)["agreement"] == 1
    strict = LIMITS.model_copy(update={"max_build_kl": 0.05})
    words = r"^a -> b, batch 1: mean KL divergence \S+ > 0.05 \(parity.max_build_kl\); no known fault"
    with pytest.raises(Refused, match=words):
        check("a -> b", normalised, surer, IMAGES, IMAGE_SPEC, strict, BUILD)


@pytest.mark.hardening("G39", "NaN and infinity")
@pytest.mark.parametrize(("ours", "theirs", "side"), [(np.nan, 0, "a"), (0, np.inf, "b")])
def test_what_is_not_finite_is_refused(ours: float, theirs: float, side: str) -> None:
    with pytest.raises(Refused, match=f"{side} answers NaN or infinity for 10 of 10 rows") as refused:
        gate(lambda inputs: normalised(inputs) + theirs, lambda inputs: normalised(inputs) + ours)
    assert refused.value.figures["parity"]["kl"] is None  # JSON has no NaN


def linear(path: Path, scale: float) -> Path:
    """logits = relu(image @ small) @ large, as an ONNX graph."""
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(24, 8)), scale * rng.normal(size=(8, 3))
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "small"], ["hidden"], name="first"),
        helper.make_node("Relu", ["hidden"], ["bent"]),
        helper.make_node("MatMul", ["bent", "large"], ["logits"], name="second"),
    ]
    made = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4, 3, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in (("small", small), ("large", large))],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.hardening("G39", "overflow in fp16")
def test_overflow_in_half_precision_is_named_with_its_layer(tmp_path: Path) -> None:
    exported = linear(tmp_path / "model.onnx", 1e4)
    words = (
        r"b answers NaN or infinity for 10 of 10 rows; overflow in half precision, which ends at 65504: MatMul second"
    )
    with pytest.raises(Refused, match=words + r" reaches \S+ in float32"):
        gate(lambda inputs: normalised(inputs) + np.float32(np.inf), halved=exported)
    # What has another reason is not called an overflow.
    assert overflow(linear(tmp_path / "small.onnx", 1.0), IMAGES) is None
    with pytest.raises(Refused, match=r"for 10 of 10 rows$"):
        gate(lambda inputs: normalised(inputs) + np.float32(np.nan), halved=tmp_path / "small.onnx")


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(Refused, match=r"shape \(1, 2\), must have \(1, 3\)"):
        gate(lambda inputs: normalised(inputs)[:, :2])


# --- a task with a mask ---------------------------------------------------------------------------

PAD, WORDS = 1, 12


def padded(inputs: Inputs, length: int, side: str) -> dict[str, np.ndarray]:
    """The rows at this length: cut, then padded right or left, or with holes in the mask."""
    ids, mask = inputs["input_ids"][:, : length - 2], inputs["attention_mask"][:, : length - 2]
    if side == "none":
        return {"input_ids": inputs["input_ids"][:, :length], "attention_mask": inputs["attention_mask"][:, :length]}
    before = {"right": 0, "left": 2, "holes": 1}[side]
    width = ((0, 0), (before, 2 - before))
    ids, mask = np.pad(ids, width, constant_values=PAD), np.pad(mask, width)
    if side == "holes":
        ids[:, length // 2], mask[:, length // 2] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


def grid(inputs: Inputs, parity: Parity) -> Iterator[Case]:
    for size in parity.batch_sizes:
        for length in (4, 8):
            yield Case(f"batch {size}, length {length}", size, padded(inputs, length, "none"))
            for side, words in (("right", "right padding"), ("left", "left padding"), ("holes", "holes")):
                case = padded(inputs, length, side)
                yield Case(f"batch {size}, length {length}, {words}", size, case, padded=True)


def suspects(spec: Spec) -> list[Suspect]:
    def unmasked(inputs: Inputs, _: Sequence[float]) -> Inputs:
        return {**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])}

    def filled(inputs: Inputs, values: Sequence[float]) -> Inputs:
        ids = np.where(inputs["attention_mask"] == 1, inputs["input_ids"], int(values[0]))
        return {**inputs, "input_ids": ids}

    return [
        Suspect(lambda _: "the mask is dropped", unmasked),
        Suspect(lambda values: f"wrong padding id: {values[0]}, must be {PAD}", filled, [(i,) for i in range(WORDS)]),
    ]


masked: Any = SimpleNamespace(grid=grid, suspects=suspects)
TEXT = {
    "input_ids": np.random.default_rng(3).integers(2, WORDS, (20, 8)),
    "attention_mask": np.ones((20, 8), np.int64),
}
EMBEDDING = np.random.default_rng(4).normal(size=(WORDS, 6))
HEAD = np.random.default_rng(5).normal(size=(6, 3)) * 3


def toy(inputs: Inputs) -> np.ndarray:
    """A word sees its neighbours, padding too, as a convolution does; then the mean over what the mask shows."""
    words = EMBEDDING[inputs["input_ids"]]
    around = np.tanh(words + 0.5 * np.roll(words, 1, 1) - 0.5 * np.roll(words, -1, 1))
    mask = inputs["attention_mask"][..., None]
    pooled: np.ndarray = (around * mask).sum(1) / mask.sum(1)
    logits: np.ndarray = (pooled @ HEAD).astype(np.float32)
    return logits


def gate_text(candidate: Answer) -> dict[str, Any]:
    spec = IMAGE_SPEC.model_copy(update={"task": "masked"})
    return check("torch -> ONNX", toy, candidate, TEXT, spec, LIMITS, BOTH)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "masked", masked)


def test_a_masked_task_brings_lengths_left_padding_and_holes() -> None:
    cases = [row["case"] for row in gate_text(toy)["grid"]]
    assert len(cases) == 3 * 2 * 4
    assert {"batch 3, length 4", "batch 3, length 8, left padding", "batch 8, length 4, holes"} <= set(cases)


def test_a_dropped_mask_is_named() -> None:
    words = "^torch -> ONNX, batch 1, length 4, right padding: .*; only where rows are padded; the mask is dropped$"
    with pytest.raises(Refused, match=words):
        gate_text(lambda inputs: toy({**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])}))


def test_a_wrong_padding_id_is_named() -> None:
    def wrong(inputs: Inputs) -> np.ndarray:
        return toy({**inputs, "input_ids": np.where(inputs["attention_mask"] == 1, inputs["input_ids"], 0)})

    words = (
        "^torch -> ONNX, batch 1, length 4, right padding: .*; only where rows are padded; wrong padding id: 0, must"
    )
    with pytest.raises(Refused, match=words):
        gate_text(wrong)


def test_a_mask_that_is_taken_for_a_length_is_found_at_left_padding_and_holes() -> None:
    """As fused attention does by default: right-padded rows do not show it. No suspect, so the place is named."""

    def fused(inputs: Inputs) -> np.ndarray:
        lengths = inputs["attention_mask"].sum(1, keepdims=True)
        places = np.arange(inputs["attention_mask"].shape[1])[None]
        return toy({**inputs, "attention_mask": (places < lengths).astype(np.int64)})

    words = (
        "^torch -> ONNX, batch 1, length 4, left padding: .*; only where rows are padded; the mask or the padding id is"
    )
    with pytest.raises(Refused, match=words) as refused:
        gate_text(fused)
    for row in refused.value.figures["parity"]["grid"]:
        assert (row["max_logit_difference"] > 0.01) == ("left" in row["case"] or "holes" in row["case"]), row


# --- figures --------------------------------------------------------------------------------------


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
