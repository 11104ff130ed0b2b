"""What a version is from, also where part of it can no longer be known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components import registry
from components.report import lineage as page
from flows.lineage import Lineage, Move, Step, trace

TAGS = {"cell": "base/fp32", "variant": "base", "target": "fp32", "digest": "d" * 64, "pipeline_run": "run-1"}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPER_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    return tmp_path


def told(found: Lineage) -> str:
    return " ".join(f"{step.kind} {step.title} {step.facts}" for step in found.steps)


def test_outside_of_git_only_the_tags_are_known(store: Path) -> None:
    found = trace(registry.Version(1, "files", TAGS), "toy", store)
    assert [step.kind for step in found.steps] == [
        "source", "data version", "variant", "build", "matrix row", "version",
    ]  # fmt: skip
    assert found.notes == ["made outside of git: of its params only their hash is known"]
    assert "run-1" in told(found) and "d" * 64 in told(found)


def test_a_commit_that_is_gone_and_odd_tags_are_no_obstacle(store: Path) -> None:
    tags = TAGS | {"git.commit": "0" * 40, "git.dirty": "false", "matrix_row": "[not a row"}
    found = trace(registry.Version(1, "files", tags), "toy", store)
    assert "commit 000000000000 cannot be read here" in found.notes[0]


def test_moves_of_the_champion_are_told(store: Path) -> None:
    moves = [
        {"model": "toy", "from": None, "to": 1, "time": "t1", "who": "me", "host": "here"},
        {"model": "other", "from": 1, "to": 2, "time": "t2"},
        {"model": "toy", "from": 1, "to": 2, "time": "t3", "action": "promote", "reason": "better"},
        {"model": "toy", "from": 2, "to": 3, "time": "t4"},
    ]
    text = "\n".join([*map(json.dumps, moves), "torn {"])
    (store / "mlruns/promotions.jsonl").write_text(text)
    assert trace(registry.Version(1, "files", TAGS), "toy", store).moves == [
        Move("t1", "promote: champion from none to version 1", "me@here"),
        Move("t3", "promote: champion from version 1 to version 2; better", ""),
    ]


@pytest.mark.hardening("E29", "markup in the lineage page")
def test_the_page_escapes_everything() -> None:
    bad = "<script>alert(1)</script>\"'&"
    lineage = Lineage(bad, 1, [Step(bad, bad, {bad: bad})], [bad], [Move(bad, bad, bad)], [bad])
    text = page.render(lineage)
    assert "<script" not in text and text.count("&lt;script&gt;") == 11 and "://" not in text
