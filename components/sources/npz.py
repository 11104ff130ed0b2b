"""One NumPy archive of images and labels, an array each; nothing in it is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.hashing import sha256_known

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from components.params import Npz

BATCH_BYTES = 16 << 20


def observe(params: Npz, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file's path and sha256; its stats, so that it is hashed again only when they differ."""
    try:
        sha256, stat = sha256_known(Path(params.path), earlier)
    except OSError as error:
        raise DataError(f"source.path {params.path}: cannot be read: {error.strerror}; correct the path") from None
    return {"kind": params.kind, "path": params.path, "sha256": sha256}, stat


def read(params: Npz) -> pa.RecordBatchReader:
    """image (a list of the array's own type), label and, unless the one part is `all`, split.

    A compressed array opens only whole: the greatest one is what memory must hold.
    """
    import pyarrow as pa

    parts = {name: (part.image, part.label) for name, part in params.arrays.items()}
    names = None if params.class_names is None else _array(params, params.class_names).ravel()
    schema: pa.Schema | None = None
    for part in parts:  # labels and headers first: what is wrong with a later part is said before any row
        found = next(_rows(params, part, *parts[part], names)).schema
        if schema is not None and found != schema:
            raise DataError(f"source.arrays.{part}: has {found.types}, the part before {schema.types}; make them one")
        schema = found
    assert schema is not None  # noqa: S101 - params want at least one part

    def rows() -> Iterator[pa.RecordBatch]:
        for part, arrays in parts.items():
            yield from _rows(params, part, *arrays, names)

    return pa.RecordBatchReader.from_batches(schema, rows())


def _array(params: Npz, name: str) -> np.ndarray:
    import numpy as np

    where = f"source.path {params.path}"
    try:
        with zipfile.ZipFile(params.path):  # numpy would take what is no archive for a pickle
            pass
        with np.load(params.path, allow_pickle=False) as file:
            if name not in file.files:
                raise DataError(f"{where}: has no array {name!r}; it has {', '.join(map(repr, file.files))}")
            return np.asarray(file[name])
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{where}: is not a whole .npz archive (truncated, or another format): {error}") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        reason = "holds Python objects, which would have to be unpickled" if "allow_pickle" in str(error) else error
        raise DataError(f"{where}, array {name!r}: {reason}; write plain numbers or text with numpy.savez") from None


def _rows(params: Npz, part: str, image: str, label: str, names: np.ndarray | None) -> Iterator[pa.RecordBatch]:
    import numpy as np
    import pyarrow as pa

    where = f"source.path {params.path}"
    images, labels = _array(params, image), _array(params, label)
    if images.ndim < 2 or images.dtype.kind not in "uif":
        raise DataError(
            f"{where}, array {image!r}: is {images.dtype} {images.shape}; images are numbers (rows, height, width[, 3])"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "uifUb":
        raise DataError(f"{where}, array {label!r}: is {labels.dtype} {labels.shape}; labels are one a row")
    if len(images) != len(labels):
        raise DataError(f"{where}: {image!r} has {len(images)} rows, {label!r} {len(labels)}; they must be the same")
    if not len(images) or not images[0].size:
        raise DataError(f"{where}: array {image!r} is empty {images.shape}; check what writes it")
    if names is not None:
        if labels.dtype.kind not in "ui":
            raise DataError(f"{where}, array {label!r}: is {labels.dtype}; numbers are needed to look up class_names")
        outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(outside):
            raise DataError(
                f"{where}, array {label!r}: row {outside[0]} is {labels[outside[0]]}, but {params.class_names!r} has "
                f"{len(names)} names ({len(outside)} rows in all); correct the labels or source.class_names"
            )
        labels = names[labels].astype(str)
    size = images[0].size
    step = max(BATCH_BYTES // (size * images.itemsize), 1)
    for start in range(0, len(images), step):
        flat = np.ascontiguousarray(images[start : start + step]).astype(images.dtype.newbyteorder("="), copy=False)
        columns = {
            "image": pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), size),
            "label": pa.array(labels[start : start + step]),
        }
        if part != "all":
            columns["split"] = pa.array([part] * len(flat))
        yield pa.RecordBatch.from_pydict(columns)
