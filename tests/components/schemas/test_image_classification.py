import base64
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components import images
from components.data import Rows
from components.errors import DataError
from components.params import ImageClassification, ImageColumns
from components.schemas import image_classification as task


def params(image: str = "p_*", shape: tuple[int, ...] = (1, 2), key: str | None = None) -> ImageClassification:
    return ImageClassification(
        kind="image_classification",
        columns=ImageColumns(image=image, label="label", key=key),
        shape=list(shape),
        range=[0.0, 16.0],
        classes=["3", "4"],
    )


def rows(raw: np.ndarray) -> Rows:
    return Rows(np.arange(len(raw)).astype(str), {"image": raw}, np.zeros(len(raw), int))


def test_pixels_are_read_in_file_order() -> None:
    table = pa.table({"p_10": [1, 2], "label": ["4", "3"], "p_2": [3, 4]})
    inputs, labels = task.read(table, params())
    assert inputs["image"].dtype == np.float32 and inputs["image"].tolist() == [[[1, 3]], [[2, 4]]]
    assert labels.dtype == np.int32 and labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.int16()), pa.list_(pa.float64(), 4), pa.list_(pa.uint8())]
)
def test_lists_of_any_kind(kind: pa.DataType) -> None:
    table = pa.table({"image": pa.array([[1, 2, 3, 4], [5, 6, 7, 8]], kind), "label": [3, 4]})
    inputs, _ = task.read(table, params("image", (2, 2)))
    assert inputs["image"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


def test_nested_lists_and_lists_of_two_chunks() -> None:
    table = pa.table({"image": [[[1, 2], [3, 4]]], "label": [3]})
    inputs, _ = task.read(pa.concat_tables([table, table]), params("image", (2, 2)))
    assert inputs["image"].tolist() == [[[1, 2], [3, 4]]] * 2


@pytest.mark.parametrize(
    "labels",
    [[3, 4], [3.0, 4.0], ["3", "4"], pa.array(["3", "4"]).dictionary_encode(), pa.array([3, 4], pa.uint8())],
)
def test_labels_of_any_kind(labels: object) -> None:
    table = pa.table({"p_0": [0, 0], "p_1": [0, 0], "label": labels})
    assert task.read(table, params())[1].tolist() == [0, 1]


@pytest.mark.parametrize("label", ["5", None, "", 3.5])
def test_an_unknown_label_is_a_breach_where_it_is_looked_at_and_an_error_where_it_is_used(label: object) -> None:
    table = pa.table({"p_0": [0], "p_1": [0], "label": [label]})
    assert task.features(table, params())["label"][0].as_py() not in ("3", "4")
    with pytest.raises(DataError, match="1 of 1 rows"):
        task.read(table, params())


def test_features_say_what_is_wrong_with_a_row() -> None:
    table = pa.table(
        {"p_0": ["1", " 2.5e0 ", "x", None], "p_1": [3.0, float("inf"), 1.0, float("nan")], "label": [3] * 4}
    )
    seen = task.features(table, params()).to_pydict()
    assert seen["image_text"] == [0, 0, 1, 0]
    assert seen["image_nulls"] == [0, 0, 0, 1]
    assert seen["image_nonfinite"] == [0, 1, 0, 1]
    assert seen["image_mean"][:3] == [2.0, 2.5, 1.0]
    assert seen["image_min"][3] is None
    assert [value is not None for value in seen["content"]] == [True, False, False, False]


@given(st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=2, max_size=8))
def test_content_is_equal_exactly_when_pixels_are(pairs: list[tuple[float, float]]) -> None:
    images = np.array(pairs, np.float64).reshape(-1, 1, 2)
    hashes = task.content({"image": images}).tolist()
    assert hashes == task.content({"image": images.astype(np.float32)}).tolist()
    assert [a == b for a in pairs for b in pairs] == [a == b for a in hashes for b in hashes]


def test_key_and_label_are_never_pixels() -> None:
    table = pa.table({"id": [7.0], "a": [1], "b": [2], "label": [3]})
    wide = params("*", key="id")
    assert task.read(table, wide)[0]["image"].tolist() == [[[1, 2]]]
    assert task.keys(table, wide).to_pylist() == ["7"] and task.keys(table, params()) is None
    assert task.columns(table, wide)["role"].tolist() == ["key", "image", "image", "label"]


def test_statistics_are_per_channel() -> None:
    images = np.zeros((2, 1, 2, 3), np.float32)
    images[..., 1] = 4
    images[0, ..., 2] = 2
    assert task.statistics([{"image": images}]) == {"mean": [0, 4, 1], "std": [1e-6, 1e-6, 1]}


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_statistics_of_batches_are_those_of_the_whole(seed: int, sizes: list[int]) -> None:
    images = [np.random.default_rng(seed).normal(1000, 3, (n, 2, 2, 3)).astype(np.float32) for n in sizes]
    found, whole = task.statistics({"image": x} for x in images), np.concatenate(images).reshape(-1, 3).astype(float)
    assert found["mean"] == pytest.approx(whole.mean(0), rel=1e-12)
    assert found["std"] == pytest.approx(whole.std(0), rel=1e-9)


def encoded(shape: tuple[int, ...] = (2, 2), resize: Any = None) -> ImageClassification:
    return params("image", shape).model_copy(update={"range": [0.0, 255.0], "resize": resize})


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_files_are_read_as_bytes_and_as_the_struct_of_datasets() -> None:
    data = [file(Image.new("L", (2, 2), value)) for value in (1, 2)]
    for pictures in (data, [{"bytes": item, "path": None} for item in data]):
        table = pa.table({"image": pictures, "label": [3, 4]})
        assert task.columns(table, encoded())["image_kind"][0] == "image"
        assert task.read(table, encoded())[0]["image"][:, 0, 0].tolist() == [1, 2]
        hashes = np.frombuffer(b"".join(task.features(table, encoded())["content"].to_pylist()), ">u8").reshape(-1, 2)
        assert hashes.tolist() == task.content(task.read(table, encoded())[0]).tolist()


def test_large_pictures_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [file(Image.new("L", (2, 2), value)) for value in range(5)] + [b"none"]
    table = pa.table({"image": pictures, "label": [3, 4, 3, 4, 3, 4]})
    whole = task.features(table, encoded()), task.read(table.slice(0, 5), encoded())[0]["image"]
    most: list[int] = []
    decoded = images.decoded
    monkeypatch.setattr(images, "decoded", lambda array, *more: most.append(len(array)) or decoded(array, *more))
    monkeypatch.setattr(task, "PIXELS", 8)
    assert task.features(table, encoded()).equals(whole[0])
    assert task.read(table.slice(0, 5), encoded())[0]["image"].tolist() == whole[1].tolist()
    assert max(most) == 2


@pytest.mark.parametrize(("shape", "mode"), [((8, 6), "L"), ((8, 6, 1), "L"), ((8, 6, 3), "RGB"), ((8, 6, 5), "L")])
def test_raw_images_are_shown_pixel_by_pixel(shape: tuple[int, ...], mode: str) -> None:
    raw = np.random.default_rng(0).uniform(-3, 12, (4, *shape)).astype(np.float32)
    raw[0].flat[0], raw[1].flat[0] = -3, 12  # black and white are of all images, not of one
    (uri,) = task.shown(rows(raw), np.array([1]))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert (picture.mode, picture.size) == (mode, (6, 8))
    assert np.ravel(np.asarray(picture))[0] == 255
    wanted = raw[1] if mode == "RGB" or len(shape) == 2 else raw[1, :, :, 0]
    assert np.abs(np.asarray(picture) - (wanted + 3) * 17).max() <= 0.51


def test_large_and_flat_images_are_shown_too() -> None:
    (uri,) = task.shown(rows(np.full((1, 300, 200), 7.0)), np.array([0]))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.size == (64, 96)
