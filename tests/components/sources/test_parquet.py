from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import DataError
from components.params import Parquet
from components.sources import parquet


def params(path: Path) -> Parquet:
    return Parquet(kind="parquet", path=str(path))


def test_rows_come_back_in_order_without_the_writers_metadata(tmp_path: Path) -> None:
    table = pa.table({"a": [3, 1, 2], "b": ["x", None, "z"]})
    pq.write_table(table.replace_schema_metadata({"pandas": "{}"}), tmp_path / "t.parquet", row_group_size=1)
    read = parquet.read(params(tmp_path / "t.parquet")).read_all()
    assert read.to_pydict() == table.to_pydict() and not read.schema.metadata


@pytest.mark.hardening("E25", "Parquet: damaged files")
def test_broken_files_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), whole)
    for name, data, said in (
        ("empty", b"", "truncated, or another format"),
        ("text", b"a,b\n1,2\n", "truncated, or another format"),
        ("cut", whole.read_bytes()[:-20], "truncated, or another format"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(DataError, match=said):
            parquet.read(params(path)).read_all()
    damaged = bytearray(whole.read_bytes())
    damaged[4:60] = b"\xff" * 56
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(DataError):
        parquet.read(params(tmp_path / "damaged")).read_all()
    with pytest.raises(DataError, match="No such file"):
        parquet.read(params(tmp_path / "absent")).read_all()
    with pytest.raises(DataError, match="No such file"):
        parquet.observe(params(tmp_path / "absent"), None)


@pytest.mark.hardening("E25", "Parquet: no rows, a column twice")
def test_no_rows_and_doubled_columns_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="columns but no rows"):
        parquet.read(params(tmp_path / "none.parquet")).read_all()
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="more than once"):
        parquet.read(params(tmp_path / "twice.parquet")).read_all()
