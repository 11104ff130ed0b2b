from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from components import assemble, params
from components.data import Spec
from components.errors import ParamsError, TemperError
from components.hashing import sha256_tree
from components.lr_find import Point, suggest
from flows import dvc
from temper import lr_find

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(prepared: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepared digits and an untrained perceptron as the pipeline leaves them, and nothing stale."""
    yaml = YAML()
    raw = yaml.load((ROOT / "params.yaml").read_text("utf-8"))
    raw["init"] = {"model": {"family": "mlp", "hidden": [32], "dropout": 0.0}}
    raw["threads"] = torch.get_num_threads()
    yaml.dump(raw, tmp_path / "params.yaml")
    shutil.copytree(prepared, tmp_path / "work/data/prepared")
    torch.manual_seed(0)
    assemble.save(assemble.create(params.check_family(raw["init"]["model"]), spec), tmp_path / "work/models/init")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dvc, "plan", lambda: dvc.Plan({}, {}, frozenset(), frozenset()))
    return tmp_path


def test_it_suggests_says_where_to_put_it_and_changes_nothing(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sha256_tree(workspace / "work")
    try:
        lr_find.lr_find(None, 1e-6, 1.0, 120)
    finally:
        torch.use_deterministic_algorithms(False)
    said = capsys.readouterr().out
    assert "base: train from init, adamw, batches of 64; up to 120 steps" in said
    with (workspace / ".temper/lr-find/base.csv").open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    found = suggest([Point(row["learning_rate"], row["loss"], row["smoothed_loss"]) for row in rows])
    assert found is not None and 1e-4 < found.steepest < 0.3
    assert f"in params.yaml: variants.base.fit.optimizer.lr: {found.steepest:.2g}  (now 0.001)" in said
    assert f"dvc exp run -S variants.base.fit.optimizer.lr={found.steepest:.2g}" in said
    assert (workspace / ".temper/lr-find/base.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (workspace / ".temper/lr-find").iterdir()} == {"base.csv", "base.png"}
    assert sha256_tree(workspace / "work") == before
    assert {path.name for path in workspace.iterdir()} == {"params.yaml", "work", ".temper"}


@pytest.mark.parametrize(
    ("variant", "lowest", "highest", "said"),
    [
        ("bases", 1e-6, 1.0, "bases: there is no such variant in params.yaml; it can be one of: base, lora"),
        ("base", 0.1, 0.01, "--lowest: must be below --highest, got 0.1 and 0.01"),
    ],
)
def test_wrong_words_are_refused(variant: str, lowest: float, highest: float, said: str, workspace: Path) -> None:
    with pytest.raises(ParamsError, match=said):
        lr_find.lr_find(variant, lowest, highest, 100)


@pytest.mark.parametrize(
    ("stale", "variant", "said"),
    [
        ("prepare", "base", r"work/data/prepared .* \(stage prepare\); make it with: dvc repro init"),
        ("make@base", "pruned", r"work/models/base .* \(stage make@base\); make it with: dvc repro make@base"),
    ],
)
def test_what_is_missing_or_stale_is_named_with_its_remedy(
    stale: str, variant: str, said: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dvc, "plan", lambda: dvc.Plan({stale: []}, {stale: ["changed"]}, frozenset(), frozenset()))
    with pytest.raises(TemperError, match=said):
        lr_find.lr_find(variant, 1e-6, 1.0, 100)


def test_no_fall_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    from components.lr_find import RangeTest
    from temper import workspace

    test = RangeTest(1e-6, 1.0, 50, lambda point: None)
    test.points = [Point(1e-6 * 1.3**i, 1.0, 1.0) for i in range(50)]
    lr_find._tell(workspace.console(), "base", 0.001, test, None)
    said = capsys.readouterr().out
    assert "No suggestion" in said and "suggested:" not in said
