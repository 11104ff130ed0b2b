"""Image classification: one image in, one of `classes` out. Raw input `image`: float32 (batch, *shape)."""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from components.data import SPLITS, Spec
from components.errors import DataError
from components.params import Expectation, ImageClassification, Loss

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def statistics(batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """Mean and standard deviation per channel of raw training images (n, height, width[, channels]).

    Batches are joined by their means and squared deviations (Chan, Golub, LeVeque 1979), in float64.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for inputs in batches:
        images = inputs["image"]
        pixels = images.reshape(-1, images.shape[3] if images.ndim == 4 else 1).astype(np.float64)
        more, mean_more = len(pixels), pixels.mean(0)
        pixels -= mean_more
        shift, total = mean_more - mean, count + more
        squares = squares + np.square(pixels, out=pixels).sum(0) + shift**2 * (count * more / total)
        mean, count = mean + shift * (more / total), total
    return {"mean": mean.tolist(), "std": np.maximum(np.sqrt(squares / count), 1e-6).tolist()}


def preprocess(inputs: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Raw images (batch, height, width[, channels]) to normalised pixel_values (batch, channels, height, width)."""
    import torch

    image = inputs["image"]
    image = image.unsqueeze(1) if image.ndim == 3 else image.permute(0, 3, 1, 2)
    mean = torch.tensor(spec.statistics["mean"]).view(1, -1, 1, 1)
    std = torch.tensor(spec.statistics["std"]).view(1, -1, 1, 1)
    return {"pixel_values": (image - mean) / std}


def loss(logits: Tensor, labels: Tensor, params: Loss) -> Tensor:
    """Mean over the batch; labels are class numbers (batch,) or probabilities (batch, classes).

    mse and huber are the logits' distance from the labels' probabilities, mean over the classes too, without a
    softmax, as in Hui & Belkin (arXiv 2006.07322); such logits are no log-probabilities.
    """
    from torch.nn import functional

    if params.kind == "cross_entropy":
        return functional.cross_entropy(logits, labels, label_smoothing=params.label_smoothing)
    if params.kind == "weighted":
        return sum((term.weight * loss(logits, labels, term.loss) for term in params.terms), logits.new_zeros(()))
    wanted = (functional.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels).to(logits.dtype)
    if params.kind == "mse":
        return functional.mse_loss(logits, wanted)
    return functional.huber_loss(logits, wanted, delta=params.delta)


def metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and the accuracy of the class that fares worst (classes without rows are left out)."""
    right = logits.argmax(1) == labels
    return {
        "accuracy": float(right.mean()),
        "worst_class_accuracy": min(float(right[labels == label].mean()) for label in np.unique(labels)),
    }


# --- the data half: from raw columns to inputs and labels -----------------------------------------


def _image_columns(names: Sequence[str], params: ImageClassification) -> list[str]:
    """The columns that hold the image, in file order: with a `*`, one a pixel."""
    others = {params.columns.label, params.columns.key, params.columns.split}
    pattern = ".*".join(re.escape(part) for part in params.columns.image.split("*"))
    return [name for name in names if re.fullmatch(pattern, name, re.DOTALL) and name not in others]


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array; categories become their values."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _numbers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(float64 values, which of them are something else than a number); null and what is no number become NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan), np.zeros(len(array), bool)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = pc.cast(array, pa.float64(), safe=False)
        return np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64), np.zeros(len(array), bool)
    present = np.array(pc.is_valid(array).to_numpy(zero_copy_only=False))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return np.full(len(array), np.nan), present
    text = pc.utf8_trim_whitespace(array)
    readable = pc.match_substring_regex(text, NUMBER)
    values = pc.cast(pc.if_else(readable, text, pa.scalar(None, kind)), pa.float64())
    return (
        np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64),
        present & ~np.array(pc.fill_null(readable, False).to_numpy(zero_copy_only=False)),
    )


def _leaves(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The values of (nested) lists, and for each the row that it belongs to."""
    import pyarrow.compute as pc

    rows = np.arange(len(array))
    while _is_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        rows, array = np.repeat(rows, lengths), _plain(pc.list_flatten(array))
    return array, rows


def _is_encoded(kind: pa.DataType) -> bool:
    """Bytes of image files, or the struct{bytes, path} of `datasets`."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_encoded(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def decode(data: bytes | None, params: ImageClassification) -> np.ndarray | str:
    """Pixels 0 to 255 (*shape) of an image file's first frame, or why there are none.

    Turned as its EXIF data say; transparency on white; 16 bits scaled to 8; grey and colour as Pillow converts them.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    height, width = params.shape[:2]
    mode = {1: "L", 3: "RGB"}.get(math.prod(params.shape[2:]))
    if mode is None:
        raise DataError(f"task.shape {params.shape}: image files give [height, width] or [height, width, 3]")
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
        if params.resize is None:
            return f"is {image.height}x{image.width}, task.shape says {height}x{width}; set task.resize"
        if params.resize == "stretch":
            image = image.resize((width, height))
        else:
            image = (ImageOps.fit if params.resize == "crop" else ImageOps.pad)(image, (width, height))
    return np.asarray(image).reshape(params.shape)


def _decoded(array: pa.Array, params: ImageClassification) -> tuple[np.ndarray, list[str | None]]:
    """(float64 pixels (rows, size), NaN where there are none; why there are none)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    files = pc.struct_field(array, "bytes") if pa.types.is_struct(array.type) else array
    pixels = np.full((len(files), math.prod(params.shape)), np.nan)
    faults: list[str | None] = [None] * len(files)
    for i, file in enumerate(files):
        found = decode(file.as_py(), params)
        if isinstance(found, str):
            faults[i] = found
        else:
            pixels[i] = found.ravel()
    return pixels, faults


def _encoded(table: pa.Table, params: ImageClassification) -> pa.Array | None:
    """The column of image files, if the image is one."""
    names = _image_columns(table.column_names, params)
    if len(names) == 1 and _is_encoded(table.schema.field(names[0]).type):
        return _plain(table.column(names[0]))
    return None


def _pixels(table: pa.Table, params: ImageClassification) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(float64 pixels (rows, size), NaN where there is none; how many values, nulls and non-numbers a row has)."""
    size = math.prod(params.shape)
    names = _image_columns(table.column_names, params)
    pixels = np.full((len(table), size), np.nan)
    if len(names) == 1 and _is_list(table.schema.field(names[0]).type):
        array, rows = _leaves(_plain(table.column(names[0])))
        values, text = _numbers(array)
        sizes = np.bincount(rows, minlength=len(table))
        whole = sizes == size
        pixels[whole] = values[whole[rows]].reshape(-1, size)
        nulls = np.bincount(rows, weights=_null(array), minlength=len(table)).astype(np.int64)
        return pixels, {
            "size": sizes,
            "nulls": nulls,
            "text": np.bincount(rows, weights=text, minlength=len(table)).astype(np.int64),
        }
    nulls, texts = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
    for i, name in enumerate(names):
        array = _plain(table.column(name))
        values, text = _numbers(array)
        nulls, texts = nulls + _null(array), texts + text
        if i < size:
            pixels[:, i] = values
    return pixels, {"size": np.full(len(table), len(names)), "nulls": nulls, "text": texts}


def _null(array: pa.Array) -> np.ndarray:
    import pyarrow.compute as pc

    return np.array(pc.is_null(array).to_numpy(zero_copy_only=False))


def _names(column: pa.ChunkedArray) -> pa.Array:
    """Values as text, so that 3, 3.0 and "3" are the same class; null and NaN are null."""
    import pyarrow as pa

    def name(value: object) -> str | None:
        if value is None or value != value:
            return None
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)

    array = _plain(column)
    if _is_list(array.type):  # refused by the rules on columns
        return pa.array([str(value) for value in array.to_pylist()], pa.string())
    coded = array.dictionary_encode()  # one text for each distinct value, not for each row
    return pa.array([name(value) for value in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)


def content(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """128 bits of SHA-256 over each image as little-endian float32, as two uint64 (n, 2); minus zero is zero."""
    images = inputs["image"].astype("<f4") + np.zeros(1, "<f4")
    size, data, sha256 = images[0].nbytes if len(images) else 1, images.tobytes(), hashlib.sha256
    heads = b"".join([sha256(data[i : i + size]).digest()[:16] for i in range(0, len(data), size)])
    return np.frombuffer(heads, ">u8").astype(np.uint64).reshape(-1, 2)


def keys(table: pa.Table, params: ImageClassification) -> pa.Array | None:
    return None if params.columns.key is None else _names(table.column(params.columns.key)).fill_null("")


def splits(table: pa.Table, params: ImageClassification) -> pa.Array | None:
    return None if params.columns.split is None else _names(table.column(params.columns.split))


def read(table: pa.Table, params: ImageClassification) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(image float32 (n, *shape), class numbers int32). Raises DataError for rows that validate sets aside."""
    import pyarrow as pa
    import pyarrow.compute as pc

    files = _encoded(table, params)
    pixels = _pixels(table, params)[0] if files is None else _decoded(files, params)[0]
    names = _names(table.column(params.columns.label))
    numbers = pc.index_in(names, value_set=pa.array(params.classes, pa.string())).fill_null(-1)
    labels = np.array(numbers.to_numpy(zero_copy_only=False), np.int32)
    if bad := int((~np.isfinite(pixels).all(1) | (labels < 0)).sum()):
        raise DataError(f"{bad} of {len(table)} rows have no readable image or label; run validate on these data first")
    return {"image": pixels.astype(np.float32).reshape(-1, *params.shape)}, labels


# --- the data half: what validate looks at --------------------------------------------------------


def columns(table: pa.Table, params: ImageClassification) -> pd.DataFrame:
    """One row a raw column: its role and kind of values; `table` may be the first rows only."""
    import pandas as pd
    import pyarrow as pa

    image = set(_image_columns(table.column_names, params))

    def kind(name: str) -> str:
        array = _plain(table.column(name))
        if name in image and _is_encoded(array.type) and len(image) == 1:
            return "image"
        listed = name in image and "*" not in params.columns.image
        if listed and not (_is_list(array.type) or pa.types.is_null(array.type)):
            return f"{array.type}, neither a list nor image files"
        array = _leaves(array)[0] if listed else array
        if pa.types.is_null(array.type):
            return "empty"
        if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
            return "number"
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            values, _ = _numbers(array)
            return "number" if np.isfinite(values).any() and name in image else "text"
        return "text" if pa.types.is_boolean(array.type) and name not in image else str(array.type)

    others = params.columns
    roles: dict[str | None, str] = {others.label: "label", others.key: "key", others.split: "split"}
    roles |= dict.fromkeys(image, "image")
    found = [(name, roles.get(name)) for name in table.column_names]
    return pd.DataFrame(
        {
            "column": pd.Series([name for name, _ in found], dtype="object"),
            "role": pd.Series([role for _, role in found], dtype="object"),
            "extra": pd.Series([None if role else name for name, role in found], dtype="object"),
            "image_kind": pd.Series([kind(name) if role == "image" else None for name, role in found], dtype="object"),
            "name_kind": pd.Series(
                [kind(name) if role in ("label", "key", "split") else None for name, role in found], dtype="object"
            ),
        }
    )


def features(table: pa.Table, params: ImageClassification) -> pa.Table:
    """label, key, split, content and image_size, _nulls, _text, _nonfinite, _min, _max, _mean of each row; of image
    files image_fault: why a file cannot be used.

    What belongs to a column that is not there is left out.
    """
    import pyarrow as pa

    found: dict[str, Any] = {}
    names = params.columns
    for name, column in (("label", names.label), ("key", names.key), ("split", names.split)):
        if column in table.column_names:
            found[name] = _names(table.column(column))
    if _image_columns(table.column_names, params):
        files = _encoded(table, params)
        if files is None:
            pixels, counts = _pixels(table, params)
            faulty = np.zeros(len(table), bool)
        else:
            pixels, faults = _decoded(files, params)
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
    size, names = math.prod(params.shape), params.columns
    roles = ["image", "label", *(["key"] if names.key else []), *(["split"] if names.split else [])]
    count = (size if "*" in names.image else 1) + len(roles) - 1

    def rule(severity: Literal["stop", "quarantine"], expect: str, notes: str, **arguments: Any) -> Expectation:
        return Expectation(expect=f"expect_{expect}", severity=severity, arguments={**arguments, "notes": notes})

    def none(column: str, notes: str) -> Expectation:
        return rule("quarantine", "column_values_to_be_in_set", notes, column=column, value_set=[0])

    wanted = f"image {names.image!r} (task.shape {params.shape}), label {names.label!r}"
    wanted += f", key {names.key!r}" if names.key else ""
    wanted += f", split {names.split!r}" if names.split else ""
    between = {"min_value": params.range[0], "max_value": params.range[1]}
    rows = [
        rule("quarantine", "column_values_to_not_be_null", "the label is missing", column="label"),
        rule(
            "quarantine",
            "column_values_to_be_in_set",
            "the label is not one of task.classes",
            column="label",
            value_set=params.classes,
        ),
        rule(
            "stop",
            "column_unique_value_count_to_be_between",
            "there must be at least two classes to tell apart",
            column="label",
            min_value=2,
        ),
        rule(
            "quarantine",
            "column_values_to_be_in_set",
            f"the image must have {size} values (task.shape {params.shape})",
            column="image_size",
            value_set=[size],
        ),
        rule("quarantine", "column_values_to_be_null", "the image cannot be used", column="image_fault"),
        none("image_nulls", "pixels are missing"),
        none("image_text", "pixels are not numbers"),
        none("image_nonfinite", "pixels are NaN or infinite"),
        rule(
            "quarantine", "column_values_to_be_between", "a pixel is outside task.range", column="image_min", **between
        ),
        rule(
            "quarantine", "column_values_to_be_between", "a pixel is outside task.range", column="image_max", **between
        ),
    ]
    if names.key:
        rows.append(rule("quarantine", "column_values_to_not_be_null", "the key is missing", column="key"))
    if names.split:
        known = {"value_set": list(SPLITS)}
        rows += [
            rule("quarantine", "column_values_to_not_be_null", "the split is missing", column="split"),
            rule(
                "quarantine", "column_values_to_be_in_set", f"the split is not one of {SPLITS}", column="split", **known
            ),
        ]
    return {
        "columns": [
            rule(
                "stop",
                "table_row_count_to_equal",
                f"the number of columns; task.columns wants {wanted}: {count} in all",
                value=count,
            ),
            rule(
                "stop",
                "column_distinct_values_to_contain_set",
                f"a column is missing or renamed; task.columns wants {wanted}",
                column="role",
                value_set=roles,
            ),
            rule(
                "stop",
                "column_values_to_be_null",
                "task.columns does not name this column; drop it, or correct its name",
                column="extra",
            ),
            rule(
                "stop",
                "column_values_to_be_in_set",
                "pixels must be numbers, or the image the bytes of a file",
                column="image_kind",
                value_set=["number", "image", "empty"],
            ),
            rule(
                "stop",
                "column_values_to_be_in_set",
                "labels, keys and splits must be text or whole numbers",
                column="name_kind",
                value_set=["number", "text", "empty"],
            ),
        ],
        "rows": rows,
    }
