"""Data that came by their hash stand in for a source that is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import clone, reproduce


@pytest.mark.parametrize(
    ("prepare", "corpus"),
    [({"split": {"train": 1.0}}, None), ({"corpus": {"column": "text", "source": {"kind": "hub"}}}, "text")],
)
def test_kept_data_stand_in_for_the_source_and_the_corpus(
    prepare: dict[str, Any], corpus: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    yaml = YAML()
    yaml.dump({"name": "news", "source": {"kind": "csv", "path": "gone.csv"}, "prepare": prepare}, Path("params.yaml"))
    reproduce._stand_in()
    read = yaml.load(Path("params.yaml"))
    assert read["source"] == {"kind": "parquet", "path": f"{clone.RAW}/data.parquet"}
    assert read["name"] == "news"
    if corpus:
        kept = {"column": corpus, "source": {"kind": "parquet", "path": f"{clone.RAW}/corpus.parquet"}}
        assert read["prepare"]["corpus"] == kept
    else:
        assert read["prepare"] == prepare
