"""`temper history`, `show`, `rollback` and `promote --dry-run` as a user reads them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components import journal, move, registry, smoke, tracking
from components.decide import decide
from components.hashing import sha256_file
from components.params import Caps
from components.smoke import Proof
from temper import matrix as command
from temper.__main__ import app
from temper.promote import explain
from tests.components.matrices import matrix
from tests.components.test_decide import policy

ROOT = Path(__file__).resolve().parents[2]
ROW = {
    "accuracy": 0.975,
    "worst_class_accuracy": 0.9,
    "accuracy_difference": -0.002,
    "accuracy_low": -0.01,
    "accuracy_high": 0.006,
    "verdict": "no worse",
    "ece": 0.02,
    "latency_ms": {"1": 0.05, "32": 0.4},
    "speedup": {"1": [2.1, 2.0, 2.2]},
    "size_mb": 0.12,
    "parameters": 30_000,
    "peak_memory_mb": 41.0,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace where version 1 was promoted, then 2, at known times, and 3 was registered."""
    folder = tmp_path_factory.mktemp("promoted")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "TEMPER_ROOT", "DVC_ROOT"):
            patch.delenv(name, raising=False)
        client = tracking.client()
        client.create_registered_model("digits")
        for number in (1, 2, 3):
            tags = {"digest": f"digest{number}", "cell": "base/int8", "matrix_row": json.dumps(ROW), "smoke": "passed"}
            client.create_model_version("digits", "https://elsewhere/none", tags=tags)
        for number, before, hour in ((1, None, 1), (2, 1, 2)):
            patch.setattr(journal.time, "strftime", lambda *_, hour=hour: f"2026-11-01T0{hour}:00:00Z")
            move.champion("digits", number, before, "promote", f"reason {number}", {"cell": "base/int8"})
    return folder


@pytest.fixture
def workspace(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "TEMPER_ROOT", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    shutil.copytree(store, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(smoke, "earlier", lambda *_: Proof("package", 32, 0.0, 0.0))
    monkeypatch.setattr("temper.checkout._signing", lambda *_: iter(()))  # these versions have no files
    return tmp_path / "here"


def temper(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, done.output + repr(done.exception)
    return " ".join(done.output.split())


def test_history_is_read_newest_first_and_exported_as_it_stands(workspace: Path) -> None:
    said = temper("history")
    assert said.index("2026-11-01 02:00:00") < said.index("2026-11-01 01:00:00")
    assert "1 to 2 base/int8" in said and "none to 1" in said and "reason 2" in said
    lines = CliRunner().invoke(app, ["history", "--json"]).output.splitlines()
    assert [json.loads(line)["to"] for line in lines] == [1, 2]
    assert json.loads(lines[1])["line_before_sha256"] == hashlib.sha256(lines[0].encode()).hexdigest()


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("2026-11-01T00:30", "At 2026-11-01T00:30:00Z digits had no champion."),
        (
            "2026-11-01T02:30+01:00",
            "version 1 of digits was the champion (base/int8): since 2026-11-01T01:00:00Z, until",
        ),
        ("2026-12-01", "version 2 of digits was the champion (base/int8): since 2026-11-01T02:00:00Z, and is still."),
    ],
)
def test_who_was_champion_then(workspace: Path, at: str, words: str) -> None:
    assert words in temper("history", "--at", at)


def test_a_time_that_is_none_is_refused(workspace: Path) -> None:
    assert "--at: must be a time like 2026-11-01T12:00" in temper("history", "--at", "yesterday", code=2)


@pytest.mark.hardening("J55", "a line of the journal is changed by hand")
def test_a_broken_journal_is_told_by_history_and_doctor(workspace: Path) -> None:
    assert "promotions digits: version 2 is the champion" in temper("doctor")
    file = Path("mlruns/promotions.jsonl")
    file.write_text(file.read_text("utf-8").replace("reason 1", "reason 9"), "utf-8")
    words = "the journal is broken: line 2 does not follow the line before it"
    assert words in temper("history", code=1) and "reason 9" in temper("history", code=1)
    assert words in temper("doctor")


@pytest.mark.hardening("J55", "the champion's version is deleted by hand")
def test_doctor_tells_when_the_champion_was_deleted(workspace: Path) -> None:
    tracking.client().delete_model_version("digits", "2")
    said = temper("doctor")
    assert "there is no champion: version 2, the champion, was deleted without Temper" in said
    assert "`temper rollback --reason ...` goes to the one before" in said


def test_show_says_all_that_is_known(workspace: Path) -> None:
    said = temper("show")
    for words in (
        "2 of digits",
        "is champion",
        "0.9750, of the worst class 0.9000",
        "-0.0020 [-0.0100, +0.0060], no worse",
        "batch 1 0.05 ms, 2.10 times as fast as the reference",
        "0.120 MB, 30,000 parameters",
        "peak memory 41 MB",
        "digest digest2",
        "smoke passed",
        "line 2 2026-11-01T02:00:00Z promote 1 to 2",
    ):
        assert words in said, words
    assert "is previous" in temper("show", "1") and "line 1" in temper("show", "1")
    assert "registered, never promoted" in temper("show", "3")
    assert "digits has no version 9 (champion is 2, previous is 1)" in temper("show", "9", code=1)


@pytest.mark.hardening("J56", "`temper rollback`")
def test_rollback_takes_one_command_and_says_what_it_did(workspace: Path) -> None:
    assert "--reason: must say why" in temper("rollback", code=2)
    said = temper("rollback", "--reason", "slow on Mondays")
    assert "version 1 of digits (base/int8) is the champion again, before it version 2" in said
    assert "version 2 stays out, and nothing else that was made of its data and params takes its place" in said
    assert registry.registered("digits").aliases == {"champion": 1}
    assert "slow on Mondays" in temper("history") and "rolled back: stays out" in temper("show", "2")
    assert "no earlier champion" in temper("rollback", "--reason", "again", code=1)
    assert "never was the champion (1, 2 were)" in temper("rollback", "3", "--reason", "x", code=1)
    temper("rollback", "2", "--reason", "it was the network")
    assert registry.registered("digits").aliases["champion"] == 2


def test_the_matrix_says_what_became_of_its_winner(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decision = decide(matrix(), policy(), {"version": 1, "digest": "digest1"})
    for path, content in ((command.MATRIX, matrix()), (command.DECISION, decision)):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content), "utf-8")

    def said(digest: str) -> str:
        winner = {**decision["winner"], "digest": digest}
        told = {**decision, "winner": winner, "matrix_sha256": sha256_file(command.MATRIX)}
        command.DECISION.write_text(json.dumps(told), "utf-8")
        return temper("matrix")

    assert "nothing to do" not in said("new")
    assert f"nothing to do: {decision['winner']['cell']} is version 2 of digits, the champion" in said("digest2")
    temper("rollback", "--reason", "slow on Mondays")
    assert "is version 2 of digits, which was rolled back; the champion is version 1" in said("digest2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "whether it was promoted cannot be told: " in said("digest2")


def test_the_dry_run_explains_each_gate_of_each_cell(capsys: pytest.CaptureFixture[str]) -> None:
    asked = policy(latency_ms=0.5, caps=Caps(ece=0.5))
    measured = matrix()
    champion: dict[str, Any] = {"version": 3, "digest": "x"}
    explain(decide(measured, asked, champion) | {"policy": asked.model_dump()})
    said = capsys.readouterr().out
    for row in measured["cells"]:
        assert f"{row['cell']}: may" in said
    assert "✓ margin" in said and "✓ caps.ece" in said and "bounds.latency_ms" in said and "✗" in said
    assert "not asked (null in params.yaml): policy.confidence, policy.integer_share, policy.caps.flips" in said
    assert "champion: version 3" in said and "decision: " in said and "★ chosen" in said
