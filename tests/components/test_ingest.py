import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components import ingest
from components.errors import DataError
from components.hashing import sha256_file, sha256_tree
from components.params import Csv, Embedded, Prepare, Split
from components.sources import SOURCES, csv

PREPARE = Prepare(split=Split(train=0.6, validation=0.1, calibration=0.1, test=0.2))


def observe(source, tmp_path: Path) -> Path:
    path = tmp_path / "source.json"
    path.write_text(json.dumps(SOURCES[source.kind].observe(source, None)[0]))
    return path


def test_data_and_manifest_agree_and_bytes_repeat(tmp_path: Path) -> None:
    source = Embedded(kind="embedded", dataset="digits")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        metrics = ingest.run(source, PREPARE, observe(source, tmp_path), tmp_path, tmp_path / name)
    manifest = json.loads((tmp_path / "one/manifest.json").read_text())
    assert manifest["rows"] == metrics["rows"] == 1797 == pq.read_metadata(tmp_path / "one/data.parquet").num_rows
    assert manifest["columns"] == {**{f"pixel_{i}": "double" for i in range(64)}, "target": "string"}
    assert manifest["sha256"] == sha256_file(tmp_path / "one/data.parquet")
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")


def test_a_file_that_changed_since_it_was_observed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n1,2\n")
    source = Csv(kind="csv", path=str(path), delimiter=",")
    observed = observe(source, tmp_path)
    os.utime(path, (1, 1))
    ingest.run(source, PREPARE, observed, tmp_path, tmp_path)  # touched, but the same
    path.write_text("a,b\n1,3\n")
    with pytest.raises(DataError, match=r"^source: the csv data changed while they were read"):
        ingest.run(source, PREPARE, observed, tmp_path, tmp_path)


def test_row_groups_are_of_one_size_however_small_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.csv").write_text("a\n" + "\n".join(map(str, range(5000))) + "\n")
    source = Csv(kind="csv", path=str(tmp_path / "data.csv"), delimiter=",")
    monkeypatch.setattr(csv, "BLOCK_BYTES", 500)
    monkeypatch.setattr(ingest, "ROW_GROUP", 2000)
    ingest.run(source, PREPARE, observe(source, tmp_path), tmp_path, tmp_path)
    with pq.ParquetFile(tmp_path / "data.parquet") as file:
        assert [file.metadata.row_group(i).num_rows for i in range(3)] == [2000, 2000, 1000]
        assert file.read()["a"].to_pylist() == list(range(5000))
