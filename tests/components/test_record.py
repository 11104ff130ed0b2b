"""What a run or a version names of what it is from."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from components import record
from components.hashing import sha256_file


@pytest.fixture
def checkout(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(root / "params.yaml", tmp_path)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    for name in ("TEMPER_COMMIT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEMPER_ROOT", str(tmp_path))
    return tmp_path


def test_without_a_kept_commit_it_is_the_users_own(checkout: Path) -> None:
    tags = record.Provenance.now(checkout).tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout.strip()
    assert (tags["git.commit"], tags["git.dirty"]) == (head, "false") and "git.head" not in tags
    assert tags["python"] == platform.python_version() and "constraints.sha256" not in tags
    (checkout / "constraints.txt").write_text("numpy==1\n")
    (checkout / "params.yaml").open("a").write("\n")
    tags = record.Provenance.now(checkout).tags
    assert tags["git.dirty"] == "true" and tags["constraints.sha256"] == sha256_file(checkout / "constraints.txt")


def test_with_one_the_users_own_stands_beside_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_COMMIT", "a" * 40)
    (checkout / "params.yaml").open("a").write("\n")
    tags = record.Provenance.now(checkout).tags
    assert (tags["git.commit"], tags["git.dirty"]) == ("a" * 40, "false")
    assert len(tags["git.head"]) == 40 and tags["git.head_dirty"] == "true"
    monkeypatch.setenv("TEMPER_COMMIT", "")  # the driver could keep none
    assert record.Provenance.now(checkout).tags["git.dirty"] == "true"


def test_a_comment_changes_the_file_and_not_its_values(checkout: Path) -> None:
    path = checkout / "params.yaml"
    text, seen = path.read_text("utf-8"), []
    for written in (text, "# said\n" + text, text.replace("seed: 0", "seed: 7")):
        path.write_text(written, "utf-8")
        seen.append(record.Provenance.now(checkout).tags)
    assert len({tags["params.sha256"] for tags in seen}) == 3
    values = [tags["params.values.sha256"] for tags in seen]
    assert values[0] == values[1] != values[2]
