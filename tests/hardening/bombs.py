"""Files that are small and unpack to very much, and a child that takes one in, as the data stages do.

    python bombs.py FOLDER KIND FILE

Prints what came of it and the most memory that was resident (VmHWM, MiB).
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = 10_000


def wide_csv(path: Path) -> None:
    lines = [",".join(f"c{i}" for i in range(COLUMNS)), *[",".join(["1.5"] * COLUMNS)] * 300]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def wide_parquet(path: Path) -> None:
    pq.write_table(pa.table({f"c{i}": pa.array(np.zeros(300)) for i in range(COLUMNS)}), path)


def one_text_often(path: Path) -> None:
    """200,000 rows, each of one of two megabytes: 200 GB in less than two."""
    values, rows = pa.array(["x" * 1_000_000, "y" * 1_000_000]), 200_000
    text = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows) % 2, pa.int32()), values)
    numbers = np.random.default_rng(0).integers(0, 1 << 60, rows)
    table = pa.table({"p0": numbers, "text": text, "label": np.arange(rows) % 2})
    pq.write_table(table, path, compression="zstd", store_schema=False)  # else it is read as what it is, by numbers


def endless_rows(path: Path) -> None:
    """2e8 rows in some kilobytes."""
    table = pa.table({"p0": pa.array(np.zeros(20_000_000, np.int8)), "label": pa.array(np.zeros(20_000_000, np.int8))})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(table, 20_000_000)


def long_lists(path: Path) -> None:
    """Lists of 2e7 zeros, sixteen a row: 2.5 GB a row."""
    values = pa.array(np.zeros(20_000_000))
    one = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    pq.write_table(pa.table({f"c{i}": one for i in range(16)}), path, compression="zstd")


def nested_json(path: Path) -> None:
    path.write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n", "utf-8")


def many_lists_json(path: Path) -> None:
    """One line of 60 MB that is 15 million lists."""
    path.write_text('{"a": [' + "[{}]," * 12_000_000 + "[]]}\n", "utf-8")


def zeros_npz(path: Path) -> None:
    """3 GB of zeros in 13 MB."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (375, 1_000, 1_000)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_2_0(file, header)  # type: ignore[arg-type]
            for _ in range(150):
                file.write(bytes(20_000_000))
        with archive.open("y.npy", "w") as file:
            np.save(file, np.zeros(375, np.int64))


BOMBS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "10,000 columns of CSV": ("csv", wide_csv),
    "10,000 columns of Parquet": ("parquet", wide_parquet),
    "a megabyte of text 200,000 times": ("parquet", one_text_often),
    "200,000,000 rows": ("parquet", endless_rows),
    "rows of 2.5 GB": ("parquet", long_lists),
    "100,000 nested lists": ("jsonl", nested_json),
    "a line of 12,000,000 lists": ("jsonl", many_lists_json),
    "3 GB of zeros in an archive": ("npz", zeros_npz),
}


def take_in(folder: Path, kind: str, file: Path) -> None:
    from components import ingest, validate
    from components.params import Csv, ImageClassification, ImageColumns, Jsonl, Npz, NpzPart, Parquet, Validate
    from components.sources import SOURCES

    made: dict[str, Any] = {
        "csv": lambda: Csv(kind="csv", path=str(file), delimiter=","),
        "parquet": lambda: Parquet(kind="parquet", path=str(file)),
        "jsonl": lambda: Jsonl(kind="jsonl", path=str(file)),
        "npz": lambda: Npz(kind="npz", path=str(file), arrays={"all": NpzPart(image="x", label="y")}, class_names=None),
    }
    source = made[kind]()
    (folder / "source.json").write_text(json.dumps(SOURCES[kind].observe(source, None)[0]), "utf-8")
    ingest.bring(source, folder / "source.json", folder / "data.parquet")
    task = ImageClassification(
        kind="image_classification",
        columns=ImageColumns(image="p*", label="label", key=None),
        shape=[1, 1],
        range=[0.0, 255.0],
        classes=["0", "1"],
    )
    rules = Validate(min_rows=1, max_quarantined_share=1.0, max_duplicate_share=1.0, expectations=[])
    (folder / "valid").mkdir()
    validate.run(task, rules, folder, folder / "valid")


def main(folder: str, kind: str, file: str) -> None:
    from components.errors import DataError

    try:
        take_in(Path(folder), kind, Path(file))
        said = "taken"
    except DataError as error:
        said = f"refused: {str(error)[:1500]}"
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak
    print(json.dumps({"said": said, "peak_mb": int(peak[1]) // 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
