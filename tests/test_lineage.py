"""A version made again, drawn, and pushed before it was promoted: one small run on a CSV file outside of git."""

from __future__ import annotations

import copy
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from components import objects
from tests.workspace import SMALL, Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run once with a remote that is not there, which refuses the promotion, and again with the one of the params."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("lineage")
    made = Workspace(folder / "a checkout")
    small = copy.deepcopy(SMALL)
    small["variants"] = {"base": small["variants"]["base"]}
    small["targets"] = {"fp32": small["targets"]["fp32"]}
    made.write_params(small)
    push = {"remote": str(folder / "backup"), "required": True, "timeout_s": 300.0}
    change(made, "policy:", f"policy:\n  push: {push}".replace("'", '"').replace("True", "true"))
    change(made, "kind: embedded", "kind: csv")
    change(made, "dataset: digits", 'path: data.csv\n  delimiter: ","')
    digits = load_digits(as_frame=True)
    digits.data.rename(columns=dict(zip(digits.data.columns, [f"pixel_{i}" for i in range(64)], strict=True))).assign(
        target=digits.target
    ).to_csv(made.folder / "data.csv", index=False)
    (made.folder / ".gitignore").write_text((made.folder / ".gitignore").read_text() + "/data.csv\n")
    made.commit()
    said = made("temper", "run", code=1, TEMPER_REMOTE=str(folder / "nowhere/backup"))
    assert "policy.push requires it, so nothing was promoted" in " ".join(said.split()), said
    assert made.registry()[1] is None
    made("temper", "run")
    assert made.registry() == (1, 1)
    return made


def change(made: Workspace, before: str, after: str) -> None:
    path = made.folder / "params.yaml"
    text = path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, after))


def git(made: Workspace, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=made.folder, capture_output=True, text=True, check=True).stdout.strip()


def tags(made: Workspace) -> dict[str, str]:
    with sqlite3.connect(f"file:{made.folder}/mlruns/mlflow.db?mode=ro", uri=True) as store:
        return dict(store.execute("SELECT key, value FROM model_version_tags WHERE version = 1").fetchall())


def everything(made: Workspace) -> list[object]:
    words = (["status", "--porcelain"], ["rev-parse", "HEAD"], ["branch"], ["for-each-ref"], ["worktree", "list"])
    tables = ("runs", "model_versions", "registered_model_aliases")
    with sqlite3.connect(f"file:{made.folder}/mlruns/mlflow.db?mode=ro", uri=True) as store:
        counts = [store.execute(f"SELECT COUNT(*) FROM {table}").fetchone() for table in tables]  # noqa: S608
    index = (made.folder / ".git/index").read_bytes()
    return [*(git(made, *line) for line in words), counts, index, (made.folder / "dvc.lock").read_bytes()]


def test_a_version_names_all_that_it_is_from(workspace: Workspace) -> None:
    found = tags(workspace)
    assert {"git.commit", "dvc_lock.sha256", "data.sha256", "params.sha256", "pipeline_run", "matrix_row", "host"} < {
        *found
    }
    assert {"constraints.sha256", "python", "git.head"} < {*found} and found["git.dirty"] == "false"
    assert found["git.head"] == git(workspace, "rev-parse", "HEAD") and found["git.head_dirty"] == "false"
    kept = git(workspace, "ls-tree", "-r", "--name-only", found["git.commit"]).splitlines()
    assert {"params.yaml", "dvc.lock", "components/fit.py"} < {*kept} and "data.csv" not in kept
    assert git(workspace, "merge-base", "--is-ancestor", found["git.commit"], "refs/temper/no-preset") == ""


def test_what_it_is_from_was_pushed(workspace: Workspace) -> None:
    backup = workspace.folder.parent / "backup/files/md5"
    locked = objects.locked((workspace.folder / "dvc.lock").read_text())
    for stage, out in {"ingest": "work/data/raw", "make@base": "work/models/base", "compare": "work/matrix"}.items():
        assert objects.listing(backup, locked[stage][out]), stage
    assert str(workspace.folder.parent / "backup") not in (workspace.folder / ".dvc/config").read_text()


def test_the_champion_is_made_again_to_the_bit_and_nothing_is_touched(workspace: Workspace) -> None:
    before = everything(workspace)
    said = workspace("temper", "reproduce", "champion")
    assert f"bit-equal: version 1 was made again with the digest {tags(workspace)['digest']}" in said
    assert "cannot be read any more" not in said, "the CSV of the checkout was not found"
    for stage in ("validate", "prepare", "init", "make@base", "build@base"):
        assert f"{stage}: equal" in said and f"{stage}: done" in said, stage
    assert "benchmark" not in said and everything(workspace) == before
    assert not (workspace.folder / ".temper/reproduce/digits-1").exists()


def test_one_that_comes_out_otherwise_is_told_by_how_much(workspace: Workspace) -> None:
    """The version is made to name a commit with another seed; its data are only on the remote, their source changed."""
    kept = ["git", "show", f"{tags(workspace)['git.commit']}:dvc.lock"]
    shown = subprocess.run(kept, cwd=workspace.folder, capture_output=True, text=True, check=True).stdout
    change(workspace, "seed: 0", "seed: 1")
    (workspace.folder / "dvc.lock").write_text(shown)
    workspace.commit()
    other = git(workspace, "rev-parse", "HEAD")
    raw = objects.locked(shown)["ingest"]["work/data/raw"]
    store = workspace.folder / ".dvc/cache/files/md5"
    (gone := store / raw[:2] / raw[2:]).unlink()
    with (workspace.folder / "data.csv").open("a") as file:
        file.write("\n")
    with sqlite3.connect(workspace.folder / "mlruns/mlflow.db") as registry:
        registry.execute("UPDATE model_version_tags SET value = ? WHERE key = 'git.commit'", [other])
    said = workspace("temper", "reproduce", "1", code=5)
    told = " ".join(said.split())
    assert "not bit-equal to version 1" in told and not gone.exists()
    assert re.search(r"init: work/models/init/model.safetensors: \d+ of \d+ weights differ, by [\d.]+ at most", told)
    assert re.search(r"model.onnx: \d+ of \d+ weights differ, by [\d.]+ at most \(in", told)
    assert re.search(r"logits: [\d.]+ at most on \d+ test rows, of which \d+ are answered otherwise", told)
    assert "the data were pulled from" in told and "the source has changed since (" in told
    clone = workspace.folder / ".temper/reproduce/digits-1"
    assert (clone / "work/models/base").is_dir(), "what differs stays to be looked at"
    shutil.rmtree(clone)


def test_a_lineage_is_drawn(workspace: Workspace, tmp_path: Path) -> None:
    said = workspace("temper", "lineage", "champion", COLUMNS="200")
    order = [
        "source csv",
        "data version",
        "init: mlp",
        "base: train",
        "build base/fp32",
        "matrix row",
        "digits version 1",
    ]
    places = [said.index(words) for words in order]
    assert places == sorted(places)
    assert "alias champion" in said and "promote: champion from none to version 1" in said
    assert tags(workspace)["git.commit"] in said and tags(workspace)["pipeline_run"] in said
    page = tmp_path / "lineage.html"
    workspace("temper", "lineage", "1", "--html", str(page))
    text = page.read_text()
    assert "://" not in text and "<script" not in text and tags(workspace)["digest"] in text


def test_versions_that_are_not_there(workspace: Workspace) -> None:
    for command in ("reproduce", "lineage"):
        said = workspace("temper", command, "7", code=1)
        assert "digits has no version 7 (champion is 1" in " ".join(said.split())
    said = workspace("temper", "lineage", "1", "--html", "/nowhere/x.html", code=1)
    assert "/nowhere/x.html: cannot be written" in said
