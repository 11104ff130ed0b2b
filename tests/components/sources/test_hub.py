import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import DataError
from components.params import Hub
from components.sources import hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set as the hub keeps it: Parquet with image files and a ClassLabel, and -1 where there is none."""
    image = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    for split in ("train", "test"):
        rows = {"image": [np.full((2, 2), i, np.uint8) for i in range(3)], "label": [0, 1, -1]}
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(image))
        made.to_parquet(tmp_path / "hub" / "data" / f"{split}-0.parquet")
    return tmp_path / "hub"


def source(dataset: str, revision: str | None = None, **splits: str) -> Hub:
    return Hub(kind="hub", dataset=dataset, config=None, splits=splits or {"train": "train"}, revision=revision)


def test_a_folder_is_read_through_datasets(folder: Path) -> None:
    table = hub.read(source(str(folder), train="train", test="test")).read_all()
    assert table["label"].to_pylist() == ["cat", "dog", None] * 2
    assert table["split"].to_pylist() == ["train"] * 3 + ["test"] * 3
    assert table["image"][0].as_py()["bytes"].startswith(b"\x89PNG")


def test_classes_are_called_as_the_user_says(folder: Path) -> None:
    params = source(str(folder)).model_copy(update={"class_names": ["Katze", "Hund"]})
    assert hub.read(params).read_all()["label"].to_pylist() == ["Katze", "Hund", None]
    with pytest.raises(
        DataError, match=r"class_names: has 1 names, column 'label' of .* has 2 classes: .*'cat', 'dog'"
    ):
        hub.read(params.model_copy(update={"class_names": ["Katze"]})).read_all()


def test_a_file_outside_the_data_set_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "hub"
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "label": ["cat"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    table = pa.table({"image": pa.array(rows["image"], features.arrow_schema.field("image").type), "label": ["cat"]})
    (folder / "data").mkdir(parents=True)
    pq.write_table(table.cast(features.arrow_schema), folder / "data/train-0.parquet")
    with pytest.raises(DataError, match=r"column 'image' names .*secret\.png, a file outside the data set"):
        hub.read(source(str(folder))).read_all()


def test_it_changes_with_its_bytes_only(folder: Path) -> None:
    identity, stat = hub.observe(source(str(folder)), None)
    (folder / "data/test-0.parquet").touch()
    assert hub.observe(source(str(folder)), stat)[0] == identity
    (folder / "README.md").write_text("new")
    assert hub.observe(source(str(folder)), stat)[0] != identity


def test_a_split_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"split 'validation': cannot be loaded.*Unknown split"):
        hub.read(source(str(folder), test="validation"))


def test_a_fault_of_the_network_is_an_error_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    for call in (hub.read, lambda params: hub.observe(params, {"sha256": "of before"})):
        with pytest.raises(DataError, match=r"owner/name: cannot reach http://127\.0\.0\.1:9"):
            call(source("owner/name"))
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("status", "asked"),
    [(None, 3), (503, 3), (429, 3), (401, 1), (404, 1)],
    ids=["no answer", "503", "429", "401", "404"],
)
def test_what_may_pass_is_asked_again(status: int | None, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "WAITS_S", (0.0, 0.0))
    asks = []

    class Fault(Exception):
        response = status and SimpleNamespace(status_code=status)

    def info(self: object, repo: str, revision: str | None, timeout: float) -> SimpleNamespace:
        asks.append(repo)
        raise Fault("away")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    with pytest.raises(DataError, match=r"cannot reach .*: Fault: away"):
        hub.observe(source("owner/name"), None)
    assert len(asks) == asked


def test_a_new_commit_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def info(self: object, repo: str, revision: str | None, timeout: float) -> SimpleNamespace:
        asked.append((repo, revision))
        return SimpleNamespace(sha=f"{len(asked):040}")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    first, second = (hub.observe(source("owner/name", "main"), None)[0]["sha256"] for _ in range(2))
    assert first != second and asked == [("owner/name", "main")] * 2
