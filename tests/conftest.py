"""What many tests need: real digits, prepared as the stages leave them, and the shipped params."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from components.data import Placing, Spec
from components.schemas import image_classification
from components.stage import QUIET

if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # what is one a machine, as the lock for timings, is one a worker
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix=f"temper-{worker}-")
    Path(tempfile.tempdir).chmod(0o711)  # PostgreSQL runs as another user
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)
ROOT = Path(__file__).resolve().parent.parent
for name, value in QUIET.items():
    os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, the long files go first: a long one that comes last would run alone."""
    if worker:
        items.sort(key=lambda item: "components" in item.path.parts)


settings.register_profile("temper", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.load_profile("temper")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def prepared_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    Spec(
        task="image_classification",
        inputs={"image": "float32"},
        vocabulary=None,
        shape=[8, 8],
        classes=classes,
        statistics=statistics,
        placing=Placing(key="row", declared=[], shares=[0.6, 0.1, 0.1, 0.2]),
    ).write(out)
    return out


@pytest.fixture(scope="session")
def prepared(prepared_images: Path) -> Path:
    return prepared_images


@pytest.fixture(scope="session")
def spec(prepared: Path) -> Spec:
    return Spec.read(prepared)


@pytest.fixture(scope="session")
def prepared_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 short texts of three classes, told apart by one word each, through the stage itself."""
    import random

    from components import prepare
    from components.params import Prepare, Split, TextClassification, TextColumns, WordPiece

    root = tmp_path_factory.mktemp("texts")
    for name in ("valid", "prepared"):
        (root / name).mkdir()
    drawn = random.Random(0)  # noqa: S311 - of words
    fillers = "the a one some with over under by of and then so it they we all".split()  # noqa: SIM905
    told = {"sport": "goal match team", "money": "bank market price", "weather": "rain wind storm"}
    rows = [(label, drawn.choice(words.split())) for label, words in told.items() for _ in range(100)]
    texts = [
        " ".join([*drawn.choices(fillers, k=drawn.randint(2, 12)), word, str(i)]) for i, (_, word) in enumerate(rows)
    ]
    table = pa.table({"text": texts, "label": [label for label, _ in rows]})
    pq.write_table(table, root / "valid/data.parquet")
    (root / "checkpoint.json").write_text("null", "utf-8")
    task = TextClassification(
        kind="text_classification",
        columns=TextColumns(text="text", label="label", key=None),
        classes=list(told),
        max_tokens=16,
        max_characters=200,
        tokenizer=WordPiece(kind="wordpiece", vocabulary=128, lowercase=True),
    )
    shares = Prepare(split=Split(train=0.6, validation=0.15, calibration=0.1, test=0.15))
    prepare.run(task, shares, root / "valid", root / "checkpoint.json", root, root / "prepared")
    return root / "prepared"


@pytest.fixture(scope="session")
def text_spec(prepared_texts: Path) -> Spec:
    return Spec.read(prepared_texts)
