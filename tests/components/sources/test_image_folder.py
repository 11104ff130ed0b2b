"""A folder of images, by itself and through ingest, validate and prepare."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components import ingest, prepare, validate
from components.data import Spec
from components.errors import DataError
from components.params import ImageClassification, ImageColumns, ImageFolder, Prepare, Split, Validate
from components.sources import image_folder


def source(path: Path, max_file_mb: float = 1.0) -> ImageFolder:
    return ImageFolder(kind="image_folder", path=str(path), max_file_mb=max_file_mb)


def png(seed: int, mode: str = "L", size: tuple[int, int] = (4, 4)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "images" / label / f"{i}.png").write_bytes(png(i + len(label) * (label == "dog")))
    return tmp_path / "images"


def test_rows_are_the_files_as_they_are(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    (folder / "cat" / ".DS_Store").touch()
    table = image_folder.read(source(folder)).read_all()
    assert table["file"].to_pylist() == [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(3)]
    assert table["label"].to_pylist() == ["cat"] * 3 + ["dog"] * 3 and "split" not in table.column_names
    assert table["image"][0].as_py() == (folder / "cat/0.png").read_bytes()


def test_folders_that_are_splits(folder: Path) -> None:
    for name in ("train", "test"):
        (folder.parent / "parts" / name).mkdir(parents=True)
    (folder / "cat").rename(folder.parent / "parts/train/cat")
    (folder / "dog").rename(folder.parent / "parts/test/dog")
    table = image_folder.read(source(folder.parent / "parts")).read_all()
    assert table["split"].to_pylist() == ["test"] * 3 + ["train"] * 3
    assert table["label"].to_pylist() == ["dog"] * 3 + ["cat"] * 3


def test_only_what_differs_is_hashed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = image_folder.sha256_files_known.__globals__["sha256_file"]
    monkeypatch.setattr("components.hashing.sha256_file", lambda path: hashed.append(path.name) or real(path))
    identity, stat = image_folder.observe(source(folder), None)
    assert len(hashed) == 6
    assert image_folder.observe(source(folder), stat) == (identity, stat) and len(hashed) == 6
    os.utime(folder / "cat/0.png", (1, 1))
    assert image_folder.observe(source(folder), stat)[0] == identity and len(hashed) == 7
    (folder / "cat/new.png").write_bytes(png(9))
    assert image_folder.observe(source(folder), stat)[0] != identity, "a new image"
    (folder / "cat/new.png").unlink()
    (folder / "cat/0.png").rename(folder / "dog/moved.png")
    assert image_folder.observe(source(folder), stat)[0] != identity, "another class"


def test_what_is_no_image_of_a_class_is_refused(folder: Path) -> None:
    (folder / "cat/notes.txt").touch()
    (folder / "stray.png").touch()
    for call in (image_folder.read, lambda params: image_folder.observe(params, None)):
        with pytest.raises(DataError, match=r"2 files or folders are no images.*stray\.png, cat/notes\.txt"):
            call(source(folder))


def test_splits_beside_classes_absent_empty_and_large(folder: Path) -> None:
    with pytest.raises(DataError, match=r"cat/0\.png .0\.0 MB.*shrink"):
        image_folder.read(source(folder, 1e-6))
    (folder / "train").mkdir()
    with pytest.raises(DataError, match=r"'train'. are names of splits, .'cat', 'dog'. are not"):
        image_folder.read(source(folder))
    with pytest.raises(DataError, match="No such file"):
        image_folder.observe(source(folder / "absent"), None)
    with pytest.raises(DataError, match="holds no image"):
        image_folder.observe(source(folder / "train"), None)


def test_links_that_lead_outside_are_refused(folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes(png(1))
    (folder / "cat/link.png").symlink_to(folder / "dog/0.png")
    assert len(image_folder.read(source(folder)).read_all()) == 7
    (folder / "cat/out.png").symlink_to(folder.parent / "secret.png")
    with pytest.raises(DataError, match=r"cat/out\.png is a link that leads outside"):
        image_folder.read(source(folder))


def stages(folder: Path, tmp_path: Path) -> tuple[dict[int, str], Path]:
    """(reasons of the rows set aside by file, the prepared data): the real stages, one after the other."""
    at = {name: tmp_path / name for name in ("raw", "valid", "prepared")}
    for path in at.values():
        path.mkdir()
    task = ImageClassification(
        kind="image_classification",
        columns=ImageColumns(image="image", label="label", key="file"),
        shape=[4, 4],
        range=[0.0, 255.0],
        classes=["cat", "dog"],
    )
    identity, _ = image_folder.observe(source(folder), None)
    (tmp_path / "source.json").write_text(json.dumps(identity), "utf-8")
    ingest.bring(source(folder), tmp_path / "source.json", at["raw"] / "data.parquet")
    rules = Validate(min_rows=10, max_quarantined_share=0.5, max_duplicate_share=0.0, expectations=[])
    validate.run(task, rules, at["raw"], at["valid"])
    shares = Split(train=0.4, validation=0.2, calibration=0.2, test=0.2)
    (tmp_path / "checkpoint.json").write_text("null")
    prepare.run(
        task,
        Prepare(split=shares),
        at["valid"],
        tmp_path / "checkpoint.json",
        tmp_path,
        at["prepared"],
    )
    aside = pq.read_table(at["valid"] / "quarantine.parquet")
    return dict(zip(aside["file"].to_pylist(), aside["reason"].to_pylist(), strict=True)), at["prepared"]


def test_good_images_are_prepared_and_bad_ones_set_aside_with_a_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, mode in enumerate(["1", "L", "P", "LA", "RGB", "RGBA"] * 4):
        (folder / ("cat", "dog")[i % 2] / f"m{i}.png").write_bytes(png(100 + i, mode))
    (folder / "cat/cut.png").write_bytes(png(1, "RGB", (4, 4))[:-30])
    (folder / "cat/empty.png").touch()
    (folder / "cat/text.png").write_text("no image")
    (folder / "dog/size.png").write_bytes(png(1, "L", (3, 5)))
    (folder / "dog/bomb.png").write_bytes(png(1, "L", (20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    reasons, prepared = stages(folder, tmp_path)
    said = {
        "cat/cut.png": "truncated or broken",
        "cat/empty.png": "is an empty file",
        "cat/text.png": "is no image file",
        "dog/size.png": "is 5x3, task.shape says 4x4; set task.resize",
        "dog/bomb.png": "has more than 100 pixels",
    }
    assert reasons.keys() == said.keys()
    for file, text in said.items():
        assert text in reasons[file] and ";" not in reasons[file].replace("; set task.resize", ""), reasons[file]
    assert Spec.read(prepared).shape == [4, 4]
    assert sum(pq.read_table(path).num_rows for path in prepared.glob("*.parquet")) == 30


def test_a_folder_of_one_class_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    for path in [*(folder / "dog").iterdir(), folder / "dog"]:
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match="at least two classes"):
        stages(folder, tmp_path)
