import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.images import Resize, decode


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("image", "kind", "grey", "colour"),
    [
        (Image.new("1", (2, 2), 1), "PNG", 255, [255, 255, 255]),
        (Image.new("L", (2, 2), 7), "PNG", 7, [7, 7, 7]),
        (Image.new("RGB", (2, 2), (255, 0, 0)), "PNG", 76, [255, 0, 0]),
        (Image.new("RGB", (2, 2), (255, 0, 0)).convert("P"), "GIF", 76, [255, 0, 0]),
        (Image.new("LA", (2, 2), (0, 0)), "PNG", 255, [255, 255, 255]),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG", 255, [255, 255, 255]),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), "TIFF", 0, [0, 0, 0]),
        (Image.fromarray(np.full((2, 2), 257 * 9 + 100, np.uint16)), "PNG", 9, [9, 9, 9]),
    ],
)
def test_images_of_every_mode_and_depth(image: Image.Image, kind: str, grey: int, colour: list[int]) -> None:
    assert np.asarray(decode(file(image, kind), (2, 2), None)).tolist() == [[grey] * 2] * 2
    assert np.asarray(decode(file(image, kind), (2, 2, 3), None)).tolist() == [[colour] * 2] * 2


@pytest.mark.parametrize(
    ("resize", "said"),
    [(None, "is 2x4, task.shape says 2x2"), ("crop", [9, 9]), ("pad", [0, 0]), ("stretch", None)],
)
def test_images_of_another_size(resize: Resize, said: Any) -> None:
    found = decode(file(Image.new("L", (4, 2), 9)), (2, 2), resize)
    if resize is None:
        assert isinstance(found, str) and found.startswith(said)
    else:
        assert np.asarray(found).shape == (2, 2)
        assert said is None or np.asarray(found)[1].tolist() == said


def test_orientation_and_the_first_frame_of_an_animation() -> None:
    wide = Image.fromarray(np.array([[0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    assert np.asarray(decode(file(wide, exif=exif), (2, 1), None)).tolist() == [[0], [255]]
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    moving = file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(moving, (2, 2), None)).tolist() == [[10, 10], [10, 10]]


@given(st.binary(max_size=80), st.integers(0, 90))
def test_any_bytes_give_pixels_or_a_reason(tail: bytes, kept: int) -> None:
    assert isinstance(decode(file(Image.new("L", (2, 2)))[:kept] + tail, (2, 2), None), np.ndarray | str)
