"""A preset from the command line to a champion, beside a user's checkout with unfinished work in it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from ruamel.yaml import YAML

from tests.workspace import FIT, Workspace

PRESET = {
    "name": "other_digits",
    "source": [
        {"kind": "csv", "path": "../nowhere/digits.csv", "delimiter": ","},
        {"kind": "embedded", "dataset": "digits"},
    ],
    "variants": {"only": {"from": "init", "pass": "train", "fit": FIT}},
    "targets": {"fp32": {"kind": "onnx_fp32"}},
    "benchmark": {"rounds": 6, "max_rounds": 6, "loads": 1},
}


def test_a_preset_runs_to_a_champion_that_names_its_commit(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "with space")
    folder = workspace.folder
    (folder / "presets").mkdir(exist_ok=True)
    with (folder / "presets/other.yaml").open("w") as file:
        file.write("# digits once more\n")
        YAML(typ="safe").dump(PRESET, file)
    (folder / "README.md").write_text("staged\n")
    workspace("git", "add", "README.md")
    (folder / "README.md").write_text("staged, and changed since\n")
    (folder / "note.txt").write_text("untracked\n")

    def mine() -> list[str]:
        words = (["status", "--porcelain"], ["rev-parse", "HEAD"], ["diff", "--cached"], ["branch"], ["stash", "list"])
        return [workspace("git", *line) for line in words]

    before, params = mine(), (folder / "params.yaml").read_text()
    said = workspace("temper", "run", "--preset", "other")
    assert "other_digits version 1" in said
    assert mine() == before and (folder / "params.yaml").read_text() == params
    assert not (folder / "work").exists() and not (folder / "dvc.lock").exists()

    standing = folder / ".temper/presets/other"
    with sqlite3.connect(f"file:{folder}/mlruns/mlflow.db?mode=ro", uri=True) as store:
        tags = dict(store.execute("SELECT key, value FROM model_version_tags WHERE name = 'other_digits'").fetchall())
    assert not (standing / "mlruns/mlflow.db").exists()
    assert tags["git.dirty"] == "false"
    ran = workspace("git", "show", f"{tags['git.commit']}:params.yaml")
    assert ran == (standing / "params.yaml").read_text() and "rounds: 6" in ran
    stages = YAML(typ="safe").load(workspace("git", "show", f"{tags['git.commit']}:dvc.lock"))["stages"]
    last = YAML(typ="safe").load((standing / "dvc.lock").read_text("utf-8"))["stages"]
    assert {name: last[name] for name in last if name != "promote"} == {
        name: stages[name] for name in stages if name != "promote"
    }
    assert {"decide", "compare", "make@only"} <= set(stages)
    assert workspace("git", "show", f"{tags['git.commit']}:README.md") == "staged, and changed since\n"
    workspace("git", "merge-base", "--is-ancestor", tags["git.commit"], "refs/temper/other")
    assert workspace("git", "show", "refs/temper/other:dvc.lock") == (standing / "dvc.lock").read_text("utf-8")
    assert list((folder / ".dvc/cache/files").rglob("*")) and not (standing / ".dvc/cache").exists()

    assert "only/fp32" in workspace("temper", "matrix", "--preset", "other")
    said = workspace("temper", "preset", "list")
    assert "digits once more" in said and ".temper/presets/other" in said and "version 1" in said
    tip = workspace("git", "rev-parse", "refs/temper/other")
    workspace("temper", "preset", "remove", "other")
    assert not standing.exists() and workspace("git", "rev-parse", "refs/temper/other") == tip

    said = workspace("temper", "run", "--preset", "other")
    assert json.loads((standing / "work/decision/decision.json").read_text())["winner"]["cell"] == "only/fp32"
    assert "make@only" not in [line.split()[1] for line in said.splitlines() if " ran " in line and line.split()[1:]]
    with sqlite3.connect(f"file:{folder}/mlruns/mlflow.db?mode=ro", uri=True) as store:
        assert store.execute("SELECT COUNT(*) FROM model_versions").fetchone() == (1,)
