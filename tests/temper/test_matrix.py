"""`temper matrix`: what it shows, what it refuses to show, and what it finds to compare with."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components import registry, versions
from components.decide import decide
from components.errors import TemperError
from components.hashing import sha256_file
from components.params import Bounds, Policy
from temper import matrix as command
from tests.components.matrices import matrix

ROOT = Path(__file__).resolve().parents[2]
NO_BOUNDS = Bounds(latency_ms=None, size_mb=None)
POLICY = Policy(metric="accuracy", margin=0.02, batch_size=1, objective="latency_ms", bounds=NO_BOUNDS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in git, with DVC and with no results."""
    for name in ("MLFLOW_TRACKING_URI", "TEMPER_ROOT", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (tmp_path / ".gitignore").write_text("/work/\n/mlruns/\n/.dvc/cache\n/.dvc/tmp\n")
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    return tmp_path


def git(*words: str) -> str:
    named = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    return subprocess.run(["git", *named, *words], check=True, capture_output=True, text=True).stdout.strip()


def commit() -> str:
    git("add", "-A")
    git("commit", "-qm", "state")
    return git("rev-parse", "HEAD")


def put(measured: dict[str, Any]) -> None:
    command.MATRIX.parent.mkdir(parents=True, exist_ok=True)
    command.MATRIX.write_text(json.dumps(measured), "utf-8")


def put_decision(measured: dict[str, Any]) -> None:
    decision = decide(measured, POLICY, {"version": None, "digest": None})
    decision["matrix_sha256"] = sha256_file(command.MATRIX)
    command.DECISION.parent.mkdir(parents=True, exist_ok=True)
    command.DECISION.write_text(json.dumps(decision), "utf-8")


def shown(*words: str, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    if words:
        command.against(console, *words)
    else:
        command.show(console)
    return " ".join(console.export_text().split())


def test_the_matrix_and_its_decision_are_shown(folder: Path) -> None:
    put(matrix())
    put_decision(matrix())
    text = shown()
    assert "decision: promote: compact/fp32 has the best latency_ms" in text
    assert "pictures and details: work/decision/report.html" in text
    assert "failed: pruned/trt_fp16: RuntimeError: planted" in text


def test_a_decision_of_another_matrix_is_not_shown(folder: Path) -> None:
    put(matrix())
    put_decision(matrix())
    put(matrix(rows=400))
    text = shown()
    assert "no decision is shown: work/decision/decision.json: was not made of work/matrix/matrix.json" in text
    assert "`dvc repro decide` decides anew" in text
    assert "★" not in text
    assert "report.html" not in text
    with pytest.raises(TemperError, match="was not made of"):
        command.read_decision()


def test_without_a_matrix_or_with_an_older_one(folder: Path) -> None:
    with pytest.raises(TemperError, match=r"work/matrix/matrix.json: there is no matrix yet; `temper run` makes it"):
        shown()
    put({"cells": []})
    with pytest.raises(TemperError, match="has schema version none, this Temper reads 1; `temper run` makes it"):
        shown()
    put(matrix())
    assert "decision:" not in shown()
    command.DECISION.parent.mkdir(parents=True)
    command.DECISION.write_text("{", "utf-8")
    assert "work/decision/decision.json: is no JSON" in shown()


def run_compare(measured: dict[str, Any]) -> str:
    """As `dvc repro` leaves a matrix: in work/, in the cache and in dvc.lock. Returns its hash."""
    from dvc.repo import Repo
    from ruamel.yaml import YAML

    Path("measured.json").write_text(json.dumps(measured), "utf-8")
    cmd = "mkdir -p work/matrix && cp measured.json work/matrix/matrix.json"
    stage = {"cmd": cmd, "deps": ["measured.json"], "outs": ["work/matrix"]}
    YAML().dump({"stages": {"compare": stage}}, Path("dvc.yaml"))
    with Repo(".") as repo:
        repo.reproduce("compare")
    lock = YAML(typ="safe").load(Path("dvc.lock").read_text("utf-8"))
    return str(lock["stages"]["compare"]["outs"][0]["md5"])


def test_against_a_git_revision(folder: Path) -> None:
    run_compare(matrix())
    first = commit()
    later = matrix()
    later["cells"] = [cell for cell in later["cells"] if cell["variant"] != "lora"]
    run_compare(later)
    commit()
    text = shown("HEAD~1")
    assert f"what changed since HEAD~1 ({first[:12]})" in text
    assert text.count("removed") == 4
    assert f"what changed since {first[:12]}" in shown(first[:9])
    assert "removed" not in shown("HEAD")


def test_against_what_git_or_the_cache_does_not_have(folder: Path) -> None:
    put(matrix())
    git("commit", "-q", "--allow-empty", "-m", "none")
    with pytest.raises(TemperError, match=r"^HEAD .*: has no dvc.lock, so nothing says what was measured there"):
        shown("HEAD")
    with pytest.raises(TemperError, match=r"^nosuch: is no registered version, alias or git revision here"):
        shown("nosuch")
    with pytest.raises(TemperError, match="digits has no version 7 "):
        shown("7")
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    commit()
    with pytest.raises(TemperError, match=r"its dvc\.lock names no work/matrix"):
        shown("HEAD")
    found = run_compare(matrix())
    commit()
    Path(".dvc/cache/files/md5", found[:2], found[2:]).unlink()
    with pytest.raises(TemperError, match=f"lacks its matrix, {found}; `dvc fetch"):
        shown("HEAD")


def test_an_older_schema_at_a_revision_is_told(folder: Path) -> None:
    run_compare({"cells": []})
    commit()
    put(matrix())
    with pytest.raises(TemperError, match=r"the matrix of HEAD \(.*\): has schema version none.*newer revision"):
        shown("HEAD")


def version(number: int, tags: dict[str, str]) -> registry.Version:
    return registry.Version(number, "", tags)


def test_against_a_registered_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(matrix())
    then = matrix() | {"host": {"machine": "Another"}}
    Path("kept.json").write_text(json.dumps(then), "utf-8")
    known = {2: version(2, {"matrix": "runs:/r/evidence/matrix.json"}), 1: version(1, {"git.commit": "c" * 40})}
    monkeypatch.setattr(registry, "version", lambda name, number: known.get(number))
    monkeypatch.setattr(registry, "registered", lambda name: registry.Registered({"champion": 2}, {}))
    monkeypatch.setattr(versions, "download", lambda source, to: Path("kept.json"))
    for named in ("2", "champion"):
        text = shown(named)
        assert "what changed since version 2 of digits" in text
        assert text.count("OTHER HOST (machine Another → A processor") == 2
    with pytest.raises(TemperError, match=r"before matrices were kept .*`temper matrix --against cccccccccccc`"):
        shown("1")
    with pytest.raises(TemperError, match=r"digits has no version 3 \(champion is 2\)"):
        shown("3")
