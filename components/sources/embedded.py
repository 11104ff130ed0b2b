"""Data sets that an installed library ships. digits: 1,797 handwritten 8x8 images, pixels 0 to 16 (scikit-learn)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.hashing import sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

    from components.params import Embedded

FILES = {"digits": ("scikit-learn", "sklearn/datasets/data/digits.csv.gz")}


def observe(params: Embedded, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The library's version and the sha256 of the data file in it; the library is not imported."""
    library, name = FILES[params.dataset]
    try:
        installed = metadata.distribution(library)
    except metadata.PackageNotFoundError:
        raise DataError(f"source.dataset {params.dataset!r} is part of {library}, which is not installed") from None
    path = Path(str(installed.locate_file(name)))
    if not path.is_file():
        raise DataError(f"source.dataset {params.dataset!r}: {library} {installed.version} has no {name}; reinstall it")
    identity = {
        "kind": params.kind,
        "dataset": params.dataset,
        "library": library,
        "version": installed.version,
        "sha256": sha256_file(path),
    }
    return identity, {}


def read(params: Embedded) -> pa.RecordBatchReader:
    """Columns pixel_0, pixel_1, ... (float64, row by row) and target (the class's name)."""
    import pyarrow as pa
    from sklearn.datasets import load_digits

    data = load_digits()
    columns = {f"pixel_{i}": pa.array(pixel) for i, pixel in enumerate(data.data.T.copy())}
    target = pa.array([str(data.target_names[label]) for label in data.target])
    return pa.table({**columns, "target": target}).to_reader()
