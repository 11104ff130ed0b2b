"""What changed since another matrix, and what must not be compared."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from components.report import changes
from tests.components.matrices import matrix


def printed(then: dict[str, Any], now: dict[str, Any], width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(changes.table(then, now, "version 1", width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return text


def changed() -> dict[str, Any]:
    """As if pruned/int8_dynamic had gone, wide/fp32 had come, lora/fp32 been trained anew and twice as fast."""
    now = copy.deepcopy(matrix())
    cells = {cell["cell"]: cell for cell in now["cells"]}
    del cells["pruned/int8_dynamic"]
    lora = cells["lora/fp32"]
    lora |= {"digest": "d" * 64, "accuracy": lora["accuracy"] - 0.012, "verdict": "cannot tell"}
    lora["latency_ms"] = {"1": lora["latency_ms"]["1"] / 2}
    cells["base/trt_fp16"] |= {"status": "refused"}
    cells["wide/fp32"] = {**cells["compact/fp32"], "cell": "wide/fp32"}
    return now | {"cells": list(cells.values())}


def test_every_cell_of_both_says_what_became_of_it() -> None:
    then, now = matrix(), changed()
    found = {pair["cell"]: pair for pair in changes.compared(then, now)}
    assert found.keys() == {cell["cell"] for matrix_ in (then, now) for cell in matrix_["cells"]}
    became = {cell: pair["became"] for cell, pair in found.items()}
    assert (became["wide/fp32"], became["pruned/int8_dynamic"]) == ("added", "removed")
    assert (became["lora/fp32"], became["base/fp32"], became["base/trt_fp16"]) == ("other file", "same file", "no file")
    assert found["base/trt_fp16"]["now"]["verdict"] == "refused"
    assert found["wide/fp32"]["then"] is None

    text = printed(then, now)
    assert "97.1 % (-1.2)" in text
    assert "(2.00x)" in text
    assert "cannot tell" in text
    assert "Latencies are of two runs, not paired" in text
    assert "cannot be compared" not in text
    printed(then, now, 80)


@pytest.mark.parametrize(
    ("other", "loud", "kept", "gone"),
    [
        (
            {"host": {"machine": "B", "isa": ["avx2"], "cores": 2}},
            "OTHER HOST (machine A processor → B)",
            "(-1.2)",
            "x)",
        ),
        ({"data_sha256": "b" * 64, "test_rows": 500}, "OTHER DATA (", "98.1 %", "(-1.2)"),
        ({"batch_size": 32}, "OTHER BATCH SIZE (1 → 32)", "(-1.2)", "x)"),
        ({"threads": 8}, "OTHER THREADS (2 → 8)", "(-1.2)", "x)"),
        ({"margin": 0.05}, "OTHER QUESTION (base/fp32, 2 points → base/fp32, 5 points)", "(-1.2)", "nothing is"),
    ],
)
def test_what_cannot_be_compared_is_loud_and_not_computed(
    other: dict[str, Any], loud: str, kept: str, gone: str
) -> None:
    text = printed(matrix(), changed() | other, 200)
    assert text.count(loud) == 2  # above the table and below it
    assert kept in text
    assert gone not in text


def test_what_an_older_matrix_did_not_name_is_no_other_host() -> None:
    now = changed()
    now["host"] = {**now["host"], "providers": ["cpu"]}
    assert changes.other_host(matrix(), now) == []


def test_other_versions_are_told() -> None:
    now = changed() | {"versions": {"python": "3.11.2", "onnxruntime": "1.33.0"}}
    assert "Other versions: onnxruntime 1.32.0 → 1.33.0." in printed(matrix(), now)


def test_the_same_matrix_is_said_to_be_so() -> None:
    same = printed(matrix(), matrix())
    assert "It is the very same matrix." in same and len(same.splitlines()) == 1, "and nothing is listed twice"
    assert "It is the very same matrix." not in printed(matrix(), changed())
