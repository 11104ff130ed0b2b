from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import DataError
from components.params import Npz, NpzPart
from components.sources import npz

FASHION = Path(__file__).parents[4] / "shared/data/fashion_mnist.npz"


def source(path: Path, names: str | None = None, **parts: NpzPart) -> Npz:
    return Npz(kind="npz", path=str(path), arrays=parts or {"all": NpzPart(image="x", label="y")}, class_names=names)


IMAGES = np.zeros((2, 3, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": IMAGES}, "has no array 'y'; it has 'x'"),
        ({"x": IMAGES, "y": [0, 1, 1]}, "'x' has 2 rows, 'y' 3"),
        ({"x": IMAGES, "y": [[0], [1]]}, "array 'y': is int64 .2, 1."),
        ({"x": [1, 2], "y": [0, 1]}, "array 'x': is int64 .2,."),
        ({"x": IMAGES[:0], "y": np.zeros(0, int)}, "is empty"),
        ({"x": IMAGES, "y": np.array(["a", 1], object)}, "array 'y': holds Python objects"),
        ({"x": IMAGES, "y": [0, 2], "names": ["a", "b"]}, "row 1 is 2, but 'names' has 2 names"),
        ({"x": IMAGES, "y": [0, -1], "names": ["a", "b"]}, "row 1 is -1"),
        ({"x": IMAGES, "y": [0.0, 1.0], "names": ["a", "b"]}, "numbers are needed to look up"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=said):
        npz.read(source(tmp_path / "data.npz", "names" if "names" in arrays else None)).read_all()


@pytest.mark.hardening("E25", "npz: cut off")
@pytest.mark.parametrize("left", [0, 100, -3])
def test_a_truncated_archive_is_refused(tmp_path: Path, left: int) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=IMAGES, y=[0, 1])
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DataError, match=r"data\.npz"):
        npz.read(source(path)).read_all()


def test_a_lone_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", IMAGES)
    with pytest.raises(DataError, match=r"is not a whole \.npz archive"):
        npz.read(source(tmp_path / "data.npy")).read_all()


def test_it_changes_with_its_bytes_only(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=IMAGES, y=[0, 1])
    identity, stat = npz.observe(source(path), None)
    path.touch()
    assert npz.observe(source(path), stat)[0] == identity
    np.savez(path, x=IMAGES, y=[1, 1])
    assert npz.observe(source(path), stat)[0] != identity


def test_fashion_mnist() -> None:
    if not FASHION.exists():
        pytest.skip(f"{FASHION.name} is not beside the checkout")
    parts = {name: NpzPart(image=f"x_{name}", label=f"y_{name}") for name in ("train", "test")}
    table = npz.read(source(FASHION, "class_names", **parts)).read_all()
    assert table["split"].value_counts().to_pylist() == [
        {"values": "train", "counts": 12000},
        {"values": "test", "counts": 2000},
    ]
    assert str(table.schema.field("image").type) == "fixed_size_list<item: uint8>[784]"
    assert len(set(table["label"].to_pylist())) == 10 and "Trouser" in table["label"].to_pylist()
