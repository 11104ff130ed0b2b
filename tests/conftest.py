"""What many tests need: real digits, prepared as the stages leave them, and the shipped params."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from components.data import Spec
from components.schemas import image_classification
from components.stage import QUIET

ROOT = Path(__file__).resolve().parent.parent
for name, value in QUIET.items():
    os.environ.setdefault(name, value)
settings.register_profile("temper", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.load_profile("temper")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """work/data/prepared with 600 real digits: 360 train, 60 validation, 60 calibration, 120 test."""
    from sklearn.datasets import load_digits

    out = tmp_path_factory.mktemp("prepared")
    digits = load_digits()
    images, labels = digits.images[:600].astype(np.float32), digits.target[:600]
    for split, rows in {
        "train": slice(0, 360),
        "validation": slice(360, 420),
        "calibration": slice(420, 480),
        "test": slice(480, 600),
    }.items():
        table = pa.table(
            {
                "row_id": [f"row{i}" for i in range(600)][rows],
                "input.image": pa.FixedSizeListArray.from_arrays(pa.array(images[rows].ravel()), 64),
                "label": pa.array(labels[rows], pa.int32()),
            }
        )
        pq.write_table(table, out / f"{split}.parquet")
    statistics = image_classification.statistics([{"image": images[:360]}])
    classes = [str(label) for label in range(10)]
    Spec(task="image_classification", shape=[8, 8], classes=classes, statistics=statistics).write(out)
    return out


@pytest.fixture(scope="session")
def spec(prepared: Path) -> Spec:
    return Spec.read(prepared)
