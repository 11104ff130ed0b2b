from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from components import card
from components.data import SPLITS
from tests.components.matrices import EVIL, matrix

ROOT = Path(__file__).parents[2]
MATRIX = matrix()
PARAMS: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
IMAGES: dict[str, Any] = {
    "vocabulary": None,
    "shape": [8, 8],
    "inputs": {"image": "float32"},
    "classes": [str(n) for n in range(10)],
}
TEXTS = IMAGES | {"vocabulary": {"size": 100}, "shape": [64], "inputs": {"input_ids": "int64"}}


def row_of(cell: str, **changes: Any) -> dict[str, Any]:
    return {**next(row for row in MATRIX["cells"] if row["cell"] == cell), **changes}


def page(row: dict[str, Any], spec: dict[str, Any] = IMAGES, data: Path = Path("nowhere/prepared"), **more: Any) -> str:
    given = {"matrix": MATRIX, "tags": {"digest": "abc", "matrix_row": "{}"}, "licence": "\nMIT License\n..."} | more
    return card.page("digits", row, spec=spec, params=PARAMS, data=data, **given)


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0].strip()


def test_says_what_was_measured_and_against_what() -> None:
    told = page(row_of("compact/int8_dynamic"))
    measured = section(told, "Measured")
    assert "| accuracy | 0.9610 (" in measured and "-2.0 \\[-2.9, -1.2\\] points: cannot tell (margin 2)" in measured
    assert "| worst class | 0.9100 (8) | fell most: 8, -6.0 points |" in measured
    assert "| calibration error (ECE) | 0.0210 | +0.0040 (-0.0020 to +0.0110) |" in measured
    assert "2 rows now right, 9 now wrong" in measured
    assert "Against the champion before it: +0.1 \\[-0.8, +0.9\\] points, no worse." in measured
    measured = MATRIX | {"champion": MATRIX["champion"] | {"trained_on_share": 0.25}}
    beware = "no worse. Beware: about 25% of these test rows may be what the champion was trained on."
    assert beware in page(row_of("compact/int8_dynamic"), matrix=measured)
    speed = section(told, "Speed and size")
    assert [line.split(" | ")[0] for line in speed.splitlines()[:4]] == ["| batch", "| ---", "| 1", "| 32"]
    assert "peak, above the process without it: 5.50 MB; loading took 12.0 ms" in speed
    assert "66% of multiply-adds" in speed
    assert "A processor, 2 cores, 2 threads" in section(told, "Where it was measured")
    assert section(told, "Licence").startswith("MIT License")
    assert section(told, "Lineage") == "- digest: `abc`"


def test_the_chain_has_every_pass_with_its_params() -> None:
    made = section(page(row_of("compact/int8_dynamic")), "How it was made").splitlines()
    assert [line.split(":")[0] for line in made[:4]] == [
        "1. `init`",
        "2. `base`, pass `train` on `init`",
        "3. `compact`, pass `prune` on `base`",  # as the matrix has it
        "4. target `int8_dynamic`",
    ]
    assert "family vit" in made[0] and "lr 0.001" in made[1] and "ratio 0.5" in made[2]
    assert made[-1] == "Seed 0, 2 threads."


def test_what_was_not_measured_is_a_limit_and_no_number() -> None:
    row = row_of("compact/int8_dynamic", versus_champion=None, peak_memory_mb=None, ece=None, ece_change=None)
    told = page(row)
    limits = section(told, "Limits")
    built = sum(cell["status"] == "ok" for cell in MATRIX["cells"])
    assert f"chosen among {built} builds on the test rows that it is reported on" in limits
    assert "raw values from 0 to 16, as in the data" in section(told, "What it is for")
    assert "not compared with a champion: no model is registered as champion yet" in limits
    assert "Energy: not measured, no RAPL counter" in limits
    assert "1,234 test rows would do" in limits
    assert "were not measured, so not compared: base/trt_fp16." in limits
    assert "Fewer than 100 test rows each, so their accuracy is rough: 0, 1, 2" in limits
    assert "| calibration error (ECE) | not measured |" in told and "without it: not measured" in told


def test_the_reference_is_not_compared_with_itself() -> None:
    told = page(row_of("base/fp32", accuracy_difference=0.0, accuracy_low=0.0, accuracy_high=0.0))
    assert "(0.96" in told and "| the reference itself |" in section(told, "Measured")
    assert "flips" not in told and "none, the build claims no INT8" in told


def test_texts_have_a_length() -> None:
    told = page(row_of("base/int8_dynamic"), TEXTS)
    rows = [line.split(" | ")[1] for line in section(told, "Speed and size").splitlines()[:4]]
    assert rows == ["sequence length", "---", "64", "64"]
    assert "cut at 64 tokens" in told and 'texts = ["a text", "another"]' in told
    pairs = page(row_of("base/int8_dynamic"), TEXTS | {"inputs": {"input_ids": "int64", "token_type_ids": "int64"}})
    assert "pairs of texts" in pairs and 'texts = [["a text", "its pair"]]' in pairs


def test_data_have_their_source_rows_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "prepared").mkdir()
    manifest = {"source": {"kind": "csv", "path": "my_data.csv"}, "rows": 110, "sha256": "f" * 64}
    (tmp_path / "raw/manifest.json").write_text(json.dumps(manifest), "utf-8")
    for rows, split in zip((60, 10, 10, 20), SPLITS, strict=True):
        pq.write_table(pa.table({"label": [0] * rows}), tmp_path / f"prepared/{split}.parquet")
    told = section(page(row_of("base/fp32"), data=tmp_path / "prepared"), "Data").splitlines()
    assert told[0] == "- source: kind csv, path my\\_data.csv"
    assert told[1] == f"- 110 rows came in, of which 10 were set aside; sha256 `{'f' * 64}`"
    assert told[3].startswith("- splits: train 60 rows, validation 10 rows, calibration (of INT8) 10 rows, test")
    assert "its manifest was not in the workspace" in section(page(row_of("base/fp32")), "Data")


@pytest.mark.hardening("E29", "markup in the model card")
def test_what_users_wrote_stays_text() -> None:
    changed = row_of("base/int8_static", worst_class=EVIL)
    told = page(changed, IMAGES | {"classes": [EVIL, "b"]}, licence=EVIL)
    assert "<script>" not in told and "&lt;script&gt;" in told
    for line in told.splitlines():  # no new column either
        if line.startswith("| worst class"):
            assert line.replace("\\|", "").count("|") == 4


@pytest.mark.parametrize("cell", [row["cell"] for row in MATRIX["cells"] if row["status"] == "ok"])
def test_every_cell_has_one(cell: str) -> None:
    assert page(row_of(cell)).startswith(f"# digits: {cell}\n")


@given(rows=st.integers(1, 100_000), right=st.integers(0, 100_000), confidence=st.floats(0.5, 0.999))
def test_the_interval_holds_the_share(rows: int, right: int, confidence: float) -> None:
    from scipy.stats import binomtest

    share = min(right, rows) / rows
    low, high = card.proportion_interval(share, rows, confidence)
    expected = binomtest(min(right, rows), rows).proportion_ci(confidence, "wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
