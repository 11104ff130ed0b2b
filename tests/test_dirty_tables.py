"""benchmarks/dirty_tables.py: its rules are right for Great Expectations, and its figures are those that it keeps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dirty_tables", ROOT / "benchmarks/dirty_tables.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["beers", "hospital", "titanic"])
def test_the_examples_are_right_expectations(benchmark: ModuleType, name: str) -> None:
    assert all(rule.severity == "quarantine" for rule in benchmark.rules_of(name))


@pytest.mark.hardening("E25", "real dirty tables against rules of their domain: wrong cells caught, right ones accused")
@pytest.mark.parametrize("name", ["beers", "hospital", "titanic"])
def test_the_kept_figures_hold(benchmark: ModuleType, name: str, tmp_path: Path) -> None:
    if not (benchmark.DATA / f"{benchmark.TABLES[name][0]}.parquet").exists():
        pytest.skip(f"{benchmark.DATA} has no {name}: the real tables are not part of the checkout")
    kept = json.loads((ROOT / "benchmarks/results/dirty_tables.json").read_text("utf-8"))["lines"]
    found = benchmark.lines_of(name, benchmark.DATA, tmp_path)
    assert found == [line for line in kept if line["table"] == name]
    whole = found[-1]
    if name == "titanic":
        gaps = {line["column"]: line["accused"] for line in found if line["accused"]}
        assert gaps == {"Age": 177, "Cabin": 687, "Embarked": 2, "all": 866}
    else:
        assert whole["accused"] == 0 and whole["caught"] >= 0.75 * whole["wrong"] > 0
    aside, kept_rows = pq.read_table(tmp_path / "quarantine.parquet"), pq.read_table(tmp_path / "data.parquet")
    assert len(aside) + len(kept_rows) == len(pq.read_table(tmp_path / "raw.parquet"))
    assert all(aside.column("reason").to_pylist()) and all(
        "expect_" in rule for rule in aside.column("rule").to_pylist()
    )
