"""Images in the columns of raw tables, as files or as numbers, to pixels; and pixels to what a page shows."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from components.errors import DataError
from components.values import is_list, is_null, leaves, plain, read_numbers

if TYPE_CHECKING:
    import pyarrow as pa

Resize = Literal["stretch", "crop", "pad"] | None
LARGEST_SHOWN = 96  # pixels of a side: twenty of them stay a small part of a page
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")


def is_encoded(kind: pa.DataType) -> bool:
    """Bytes of image files, or the struct{bytes, path} of `datasets`."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_encoded(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def decode(data: bytes | None, shape: Sequence[int], resize: Resize) -> np.ndarray | str:
    """Pixels 0 to 255 (*shape: height, width[, 3]) of an image file's first frame, or why there are none.

    Turned as its EXIF data say; transparency on white; 16 bits scaled to 8; grey and colour as Pillow converts them.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    height, width = shape[:2]
    mode = {1: "L", 3: "RGB"}.get(math.prod(shape[2:]))
    if mode is None:
        raise DataError(f"task.shape {shape}: image files give [height, width] or [height, width, 3]")
    if not data:
        return "is missing" if data is None else "is an empty file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            return "has floating-point pixels; save it with 8 or 16 bits"
        if image.mode.startswith("I"):
            image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) / 257 + 0.5).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"has more than {Image.MAX_IMAGE_PIXELS} pixels"
    except UnidentifiedImageError:
        return f"is no image file ({', '.join(FORMATS)})"
    except Exception as error:  # noqa: BLE001 - damaged bytes raise whatever the decoder stumbles over
        return f"is truncated or broken: {error}"
    if image.size != (width, height):
        if resize is None:
            return f"is {image.height}x{image.width}, task.shape says {height}x{width}; set task.resize"
        if resize == "stretch":
            image = image.resize((width, height))
        else:
            image = (ImageOps.fit if resize == "crop" else ImageOps.pad)(image, (width, height))
    return np.asarray(image).reshape(shape)


def decoded(array: pa.Array, shape: Sequence[int], resize: Resize) -> tuple[np.ndarray, list[str | None]]:
    """(float64 pixels (rows, size), NaN where there are none; why there are none)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    files = pc.struct_field(array, "bytes") if pa.types.is_struct(array.type) else array
    pixels = np.full((len(files), math.prod(shape)), np.nan)
    faults: list[str | None] = [None] * len(files)
    for i, file in enumerate(files):
        found = decode(file.as_py(), shape, resize)
        if isinstance(found, str):
            faults[i] = found
        else:
            pixels[i] = found.ravel()
    return pixels, faults


def pixels(table: pa.Table, names: Sequence[str], size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Of one column of lists, or of columns of one number each, `size` pixels a row.

    (float64 (rows, size), NaN where there is none; how many values, nulls and non-numbers a row has)
    """
    found = np.full((len(table), size), np.nan)
    if len(names) == 1 and is_list(table.schema.field(names[0]).type):
        array, rows = leaves(plain(table.column(names[0])))
        values, text = read_numbers(array)
        sizes = np.bincount(rows, minlength=len(table))
        whole = sizes == size
        found[whole] = values[whole[rows]].reshape(-1, size)
        nulls = np.bincount(rows, weights=is_null(array), minlength=len(table)).astype(np.int64)
        return found, {
            "size": sizes,
            "nulls": nulls,
            "text": np.bincount(rows, weights=text, minlength=len(table)).astype(np.int64),
        }
    nulls, texts = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
    for i, name in enumerate(names):
        array = plain(table.column(name))
        values, text = read_numbers(array)
        nulls, texts = nulls + is_null(array), texts + text
        if i < size:
            found[:, i] = values
    return found, {"size": np.full(len(table), len(names)), "nulls": nulls, "text": texts}


def shown(raw: np.ndarray, numbers: np.ndarray) -> list[str]:
    """PNG data URIs of these of the raw images (n, height, width[, channels]); black is the least value of them all."""
    import base64

    from PIL import Image

    low, high = (float(raw.min()), float(raw.max())) if len(raw) else (0.0, 1.0)
    uris = []
    for number in numbers:
        levels = np.rint((raw[number] - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
        if levels.ndim == 3 and levels.shape[2] != 3:  # one channel, or more than a screen has
            levels = levels[:, :, 0]
        picture = Image.fromarray(levels)
        picture.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        uris.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return uris
