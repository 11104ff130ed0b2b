"""A matrix without its proof is none: each part that is taken away makes it invalid, with its place named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from components import matrix_json
from components.errors import TemperError
from tests.components.matrices import matrix


def test_the_schema_is_one_and_takes_a_whole_matrix() -> None:
    Draft202012Validator.check_schema(json.loads(matrix_json.SCHEMA.read_text("utf-8")))
    matrix_json.check(matrix(), "here")


PROOF = ["rows", "sha256", "digest", "accuracy", "accuracy_low", "accuracy_high", "size_mb", "latency_ms", "speedup"]


@pytest.mark.parametrize("key", [*PROOF, "verdict", "dominated_by"])
@pytest.mark.parametrize("gone", ["absent", "null"])
def test_a_cell_that_is_ok_carries_its_proof(key: str, gone: str) -> None:
    broken = matrix()
    cell = broken["cells"][3]
    if gone == "absent":
        del cell[key]
    elif key == "dominated_by":
        return  # not every cell that is ok was timed at the policy's batch size
    else:
        cell[key] = None
    with pytest.raises(TemperError, match=r"^here: lora/fp32"):
        matrix_json.check(broken, "here")


@pytest.mark.parametrize("key", ["certificate", "parity", "latency", "classes", "ece_change", "energy_mj", "interval"])
def test_what_was_not_measured_says_so(key: str) -> None:
    broken = matrix()
    del broken["cells"][3][key]
    with pytest.raises(TemperError, match=rf"^here: lora/fp32.*{key}"):
        matrix_json.check(broken, "here")


@pytest.mark.parametrize(
    "key",
    ["energy", "threads", "tokens", "host", "versions", "data_sha256", "front", "changed_rows", "schema", "control"],
)
def test_a_matrix_says_where_and_of_what(key: str) -> None:
    broken = matrix()
    del broken[key]
    with pytest.raises(TemperError, match=key):
        matrix_json.check(broken, "here")


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("rows", 0),
        ("sha256", "0" * 63),
        ("latency_ms", {}),
        ("speedup", {"1": [1.0]}),
        ("speedup", {}),
        ("status", "fine"),
        ("cell", "Base"),
        ("accuracy", 1.1),
    ],
)
def test_a_figure_that_cannot_be_is_refused(key: str, wrong: Any) -> None:
    broken = matrix()
    broken["cells"][3][key] = wrong
    with pytest.raises(TemperError):
        matrix_json.check(broken, "here")


def test_a_cell_that_is_not_ok_says_why() -> None:
    broken = matrix()
    broken["cells"][-1]["reason"] = ""
    with pytest.raises(TemperError, match="pruned/trt_fp16"):
        matrix_json.check(broken, "here")


def test_without_the_reference_there_are_no_intervals() -> None:
    """It was refused: accuracy and latency of the others stand, with nothing to be paired with."""
    alone = matrix()
    for cell in alone["cells"]:
        cell |= {
            "accuracy_difference": None,
            "accuracy_low": None,
            "accuracy_high": None,
            "verdict": None,
            "speedup": {},
        }
    with pytest.raises(TemperError):
        matrix_json.check(alone, "here")
    matrix_json.check(alone | {"reference_status": "refused"}, "here")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no matrix"),
        ('{"cells": []}', "has schema version none, this Temper reads"),
        ('{"cells": [], "schema": 99}', "has schema version 99"),
    ],
)
def test_what_is_no_matrix_of_ours_is_told_with_its_remedy(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "matrix.json"
    path.write_text(text, "utf-8")
    with pytest.raises(TemperError, match=said) as told:
        matrix_json.read(path, "do this")
    assert str(told.value).startswith(str(path))
    assert str(told.value).endswith("; do this")


def test_an_absent_matrix_is_told(tmp_path: Path) -> None:
    with pytest.raises(TemperError, match="there is no matrix yet; do this"):
        matrix_json.read(tmp_path / "matrix.json", "do this")
