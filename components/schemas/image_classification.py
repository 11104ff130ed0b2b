"""Raw rows of image classification: a label, and an image as pixels in columns or lists, or as the bytes of a file."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components import images, labelled
from components.data import Learned, Rows
from components.errors import DataError
from components.labelled import keys as keys
from components.labelled import rule
from components.labelled import splits as splits
from components.params import Expectation, ImageClassification
from components.values import is_list, leaves, plain, read_numbers

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


Raw = Mapping[str, np.ndarray]
PIXELS = 4 << 20  # in memory at once, in each of several arrays of eight bytes a pixel


def shown(rows: Rows, numbers: np.ndarray) -> list[str]:
    """PNG data URIs of these raw images."""
    return images.shown(rows.inputs["image"], numbers)


def learn(
    training: Callable[[], Iterable[Raw]], params: ImageClassification, checkpoint: Path | None, out: Path
) -> Learned:
    """Nothing: an image is a row as it is."""
    return Learned(lambda raw: raw, None)


def texts(raw: Raw) -> dict[str, pa.Array]:
    return {}


def statistics(batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """Mean and standard deviation per channel of raw training images (n, height, width[, channels]).

    Batches are joined by their means and squared deviations (Chan, Golub, LeVeque 1979), in float64.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for inputs in batches:
        raw = inputs["image"]
        pixels = raw.reshape(-1, raw.shape[3] if raw.ndim == 4 else 1).astype(np.float64)
        more, mean_more = len(pixels), pixels.mean(0)
        pixels -= mean_more
        shift, total = mean_more - mean, count + more
        squares = squares + np.square(pixels, out=pixels).sum(0) + shift**2 * (count * more / total)
        mean, count = mean + shift * (more / total), total
    return {"mean": mean.tolist(), "std": np.maximum(np.sqrt(squares / count), 1e-6).tolist()}


def _image_columns(names: Sequence[str], params: ImageClassification) -> list[str]:
    """The columns that hold the image, in file order: with a `*`, one a pixel."""
    others = {params.columns.label, params.columns.key, params.columns.split}
    pattern = ".*".join(re.escape(part) for part in params.columns.image.split("*"))
    return [name for name in names if re.fullmatch(pattern, name, re.DOTALL) and name not in others]


def _encoded(table: pa.Table, params: ImageClassification) -> pa.Array | None:
    """The column of image files, if the image is one."""
    names = _image_columns(table.column_names, params)
    if len(names) == 1 and images.is_encoded(table.schema.field(names[0]).type):
        return plain(table.column(names[0]))
    return None


def content(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """128 bits of SHA-256 over each image as little-endian float32, as two uint64 (n, 2); minus zero is zero."""
    images = inputs["image"].astype("<f4") + np.zeros(1, "<f4")
    size, data, sha256 = images[0].nbytes if len(images) else 1, images.tobytes(), hashlib.sha256
    heads = b"".join([sha256(data[i : i + size]).digest()[:16] for i in range(0, len(data), size)])
    return np.frombuffer(heads, ">u8").astype(np.uint64).reshape(-1, 2)


def near(inputs: Mapping[str, np.ndarray]) -> None:
    """Images that nearly are others are not looked for."""


def _pixels(table: pa.Table, params: ImageClassification) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return images.pixels(table, _image_columns(table.column_names, params), math.prod(params.shape))


def _slices(table: pa.Table, params: ImageClassification) -> list[pa.Table]:
    """The rows, so many at once as PIXELS allow: a small file may hold a large picture."""
    rows = max(1, PIXELS // math.prod(params.shape))
    return [table.slice(start, rows) for start in range(0, max(len(table), 1), rows)]


def read(table: pa.Table, params: ImageClassification) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(image float32 (n, *shape), class numbers int32). Raises DataError for rows that validate sets aside."""

    def pixels_of(part: pa.Table) -> np.ndarray:
        files = _encoded(part, params)
        found = _pixels(part, params) if files is None else images.decoded(files, params.shape, params.resize)
        return found[0].astype(np.float32)

    pixels = np.concatenate([pixels_of(part) for part in _slices(table, params)])
    labels = labelled.numbers(table, params)
    if bad := int((~np.isfinite(pixels).all(1) | (labels < 0)).sum()):
        raise DataError(f"{bad} of {len(table)} rows have no readable image or label; run validate on these data first")
    return {"image": pixels.reshape(-1, *params.shape)}, labels


def columns(table: pa.Table, params: ImageClassification) -> pd.DataFrame:
    """One row a raw column: its role and kind of values; `table` may be the first rows only."""
    image = _image_columns(table.column_names, params)

    def kind(name: str, role: str | None) -> str | None:
        return _kind(table.column(name), len(image) == 1, "*" not in params.columns.image) if role == "image" else None

    return labelled.columns(table, params, dict.fromkeys(image, "image"), [], {"image_kind": kind})


def _kind(column: pa.ChunkedArray, alone: bool, listed: bool) -> str:
    """Of an image's column: image (its file), number, empty, or what else it is in words."""
    import pyarrow as pa

    array = plain(column)
    if images.is_encoded(array.type) and alone:
        return "image"
    if listed and not (is_list(array.type) or pa.types.is_null(array.type)):
        return f"{array.type}, neither a list nor image files"
    array = leaves(array)[0] if listed else array
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return "number" if np.isfinite(read_numbers(array)[0]).any() else "text"
    return str(array.type) if pa.types.is_boolean(array.type) else labelled.kind_of(pa.chunked_array([array]))


def features(table: pa.Table, params: ImageClassification) -> pa.Table:
    """label, key, split, content and image_size, _nulls, _text, _nonfinite, _min, _max, _mean of each row; of image
    files image_fault: why a file cannot be used.

    What belongs to a column that is not there is left out.
    """
    import pyarrow as pa

    return pa.concat_tables([_features(part, params) for part in _slices(table, params)]).combine_chunks()


def _features(table: pa.Table, params: ImageClassification) -> pa.Table:
    import pyarrow as pa

    found: dict[str, Any] = labelled.features(table, params)
    if _image_columns(table.column_names, params):
        files = _encoded(table, params)
        if files is None:
            pixels, counts = _pixels(table, params)
            faulty = np.zeros(len(table), bool)
        else:
            pixels, faults = images.decoded(files, params.shape, params.resize)
            found["image_fault"] = pa.array(faults, pa.string())
            faulty, none = np.array([fault is not None for fault in faults], bool), np.zeros(len(table), np.int64)
            counts = {"size": none + pixels.shape[1], "nulls": none, "text": none}
        found |= {f"image_{name}": values.astype(np.int32) for name, values in counts.items()}
        nonfinite = ~np.isfinite(pixels)
        missing = counts["nulls"] + counts["text"]
        whole = counts["size"] == pixels.shape[1]
        found["image_nonfinite"] = np.where(whole & ~faulty, nonfinite.sum(1) - missing, 0).astype(np.int32)
        least, greatest = np.where(nonfinite, np.inf, pixels).min(1), np.where(nonfinite, -np.inf, pixels).max(1)
        any_finite = ~nonfinite.all(1)
        found["image_min"] = pa.array(least, mask=~any_finite)
        found["image_max"] = pa.array(greatest, mask=~any_finite)
        total = np.where(nonfinite, 0, pixels).sum(1)
        found["image_mean"] = pa.array(total / np.maximum((~nonfinite).sum(1), 1), mask=~any_finite)
        with np.errstate(over="ignore"):
            hashes = content({"image": pixels})
        usable = whole & ~nonfinite.any(1)
        raw = pa.py_buffer(hashes.astype(">u8").tobytes())
        array = pa.Array.from_buffers(pa.binary(16), len(table), [None, raw])
        found["content"] = pa.compute.if_else(pa.array(usable), array, pa.scalar(None, pa.binary(16)))
    return pa.table(found)


def expectations(params: ImageClassification) -> dict[str, list[Expectation]]:
    """What must hold of the raw columns (else the run stops) and of each row (else it is set aside)."""
    size, pattern = math.prod(params.shape), params.columns.image
    others, roles = labelled.wanted(params)
    count = (size if "*" in pattern else 1) + len(roles)
    words = f"image {pattern!r} (task.shape {params.shape}), {others}"
    in_set, between = "column_values_to_be_in_set", "column_values_to_be_between"
    outside = "a pixel is outside task.range"
    limits = {"min_value": params.range[0], "max_value": params.range[1]}

    def none(column: str, notes: str) -> Expectation:
        return rule("quarantine", in_set, notes, column=column, value_set=[0])

    must = f"the image must have {size} values (task.shape {params.shape})"
    pixels = "pixels must be numbers, or the image the bytes of a file"
    kinds = ["number", "image", "empty"]
    return {
        "columns": [
            *labelled.column_rules(words, ["image", *roles], count),
            rule("stop", in_set, pixels, column="image_kind", value_set=kinds),
        ],
        "rows": [
            *labelled.row_rules(params),
            rule("quarantine", in_set, must, column="image_size", value_set=[size]),
            rule("quarantine", "column_values_to_be_null", "the image cannot be used", column="image_fault"),
            none("image_nulls", "pixels are missing"),
            none("image_text", "pixels are not numbers"),
            none("image_nonfinite", "pixels are NaN or infinite"),
            rule("quarantine", between, outside, column="image_min", **limits),
            rule("quarantine", between, outside, column="image_max", **limits),
        ],
    }
