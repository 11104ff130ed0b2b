"""Model files with one byte changed are refused or harmless, and never take the process that asks down or on hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.components import conftest
from tests.hardening.fuzz import FILES, flipped

shipped = conftest.shipped

QUICK, MANY = 100, 10_000  # of each of three kinds


@pytest.fixture(scope="module")
def files(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole build of texts, its tokenizer, and weights."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("files")
    for name in ("model.onnx", "build.json", "tokenizer.json"):
        shutil.copy(shipped / name, folder)
    drawn = np.random.default_rng(0)
    save_file(
        {f"layer{i}": drawn.normal(size=(8, 4)).astype(np.float32) for i in range(8)}, folder / FILES["safetensors"]
    )
    return folder


def hold(kind: str, files: Path, count: int, record: Callable[[str, object], None]) -> None:
    found = flipped(kind, files, count, seed=7)
    record("times", count)
    record("found", dict(found))
    print(kind, dict(found))
    assert sum(found.values()) == count and found["timed out"] == 0, found
    assert not [said for said in found if said.startswith("escaped")], found
    assert found["refused"] > count / 100, "nothing that is changed is noticed: is it read at all?"


@pytest.mark.hardening("G37", "100 random byte changes of each kind of model file, opened in a child with limits")
@pytest.mark.parametrize("kind", FILES)
def test_a_changed_byte_is_refused_or_harmless(
    kind: str, files: Path, record_property: Callable[[str, object], None]
) -> None:
    hold(kind, files, QUICK, record_property)


@pytest.mark.drill
@pytest.mark.hardening("G37", "10,000 random byte changes of model files, opened in a child with limits")
@pytest.mark.parametrize("kind", FILES)
def test_ten_thousand_changed_bytes(kind: str, files: Path, record_property: Callable[[str, object], None]) -> None:
    hold(kind, files, MANY, record_property)
