"""The words that every form of the report shares."""

from __future__ import annotations

from typing import Any

import pytest

from components import compare, timing
from components.report import words
from tests.components.matrices import matrix


@pytest.mark.parametrize(
    ("low", "high", "verdict", "told"),
    [
        (0.99, 1.01, "same", "Noise: 1.0%."),
        (0.8, 1.1, "cannot tell", "too noisy"),
        (1.03, 1.1, "faster", "do not trust"),
    ],
)
def test_the_control_says_what_the_speeds_are_worth(low: float, high: float, verdict: str, told: str) -> None:
    timed = {"speedup": {"1": [(low + high) / 2, low, high]}, "speed_verdict": {"1": verdict}}
    said = words.control_words({"control": timing.control(timed)})
    assert told in said
    assert ("quiet" in said) == (told != "Noise: 1.0%.")
    assert ("beyond these intervals" in said) == (told != "Noise: 1.0%.")


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"float_nodes": {"Gemm": 3}, "integer_nodes": {}, "half_nodes": {}, "cast_nodes": 0}, ""),
        ({"float_nodes": {"MatMul": 2}, "cast_nodes": 1, "kind": "onnx_fp32"}, ""),  # a mask becomes numbers
        (
            {"float_nodes": {"MatMul": 2, "Gemm": 1}, "cast_nodes": 5, "kind": "onnx_fp16"},
            "0 of 3 layers in half precision, 5 casts",
        ),
        ({"integer_nodes": {"QGemm": 4}, "float_nodes": {"MatMul": 2}}, "4 layers in integers, 2 in floats"),
        ({"integer_nodes": {"gemm": 4}}, "4 layers in integers"),
        ({"cuda_nodes": {"Conv": 2}, "cpu_nodes": {"Shape": 1}}, "1 nodes on the processor, 2 on CUDA"),
    ],
)
def test_the_page_says_in_what_a_build_multiplies(figures: dict[str, Any], told: str) -> None:
    assert words.kernel_words({**dict.fromkeys(compare.KERNELS), **figures}) == told


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00797, "0.00797"), (0.0123, "0.0123"), (0.981, "0.981"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")],
)
def test_figures_are_short_and_plain(value: float, text: str) -> None:
    assert words.figure(value) == text


def test_a_difference_is_never_minus_zero() -> None:
    assert words.points(-0.0001, -0.012, 0.0004) == "+0.0 [-1.2, +0.0]"


def test_a_front_without_cells_says_why() -> None:
    empty = matrix()
    empty["front"] = []
    for cell in empty["cells"][:15]:
        cell |= {"status": "refused", "reason": "parity"}
    told = words.front_words(empty)
    assert told.endswith("of 18 cells, 16 refused, 1 not measured, 1 failed.")
    assert words.front_words(matrix()).startswith("The front: lora/fp32, ")


def test_the_certificate_and_energy_in_words() -> None:
    cells = {cell["cell"]: cell for cell in matrix()["cells"]}
    assert words.integer_words(cells["base/fp32"]) == ""
    assert words.integer_words(cells["base/int8_static"]) == "66% of multiply-adds, 40% of time in integer kernels"
    assert words.energy_words(matrix()) == "Energy: not measured, no RAPL counter can be read on this machine."
    assert words.energy_words({"energy": {"counter": "RAPL", "reason": ""}}) == "Energy: read from RAPL."
    assert words.calls_words(cells["base/fp32"], "1").endswith("1,000 rows/s")
    assert words.calls_words(cells["base/fp32"], "7") == ""


def test_the_length_of_texts_is_stated() -> None:
    matrix = {"reference": "base/fp32", "test_rows": 100, "confidence": 0.95, "margin": 0.02, "rounds": 40}
    assert "Latency of texts of 64 tokens: median" in words.reading(matrix | {"tokens": 64})
    for without in (matrix, matrix | {"tokens": None}):  # images, and matrices of before it was kept
        assert "Latency: median" in words.reading(without)
