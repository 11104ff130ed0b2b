"""What a version shows before it may be champion, and before it may be champion again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import (
    answers,
    contents,
    journal,
    package,
    promote,
    registry,
    rollback,
    runtime,
    signing,
    smoke,
    versions,
)
from components.data import Spec, read_rows
from components.errors import TemperError

CELL = Path("work/predictions/base/fp32")
WORK = [Path("work", name) for name in ("builds", "engines", "predictions", "matrix", "data/prepared")]


def evaluated(prepared: Path, build: Path, folder: Path) -> None:
    """Answer the test rows as stage evaluate does."""
    shutil.copytree(prepared, "work/data/prepared", dirs_exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(prepared, "test", Spec.read(prepared))
    answers.write(answers.ask(runtime.open_build(build, 1), rows), folder, prepared / "test.parquet")


@pytest.fixture
def decision(
    tracked: Path, prepared: Path, make_build: Callable[..., str], decide: Callable[..., Any]
) -> dict[str, Any]:
    decided: dict[str, Any] = decide("base/fp32", make_build("base", "fp32"))
    evaluated(prepared, Path("work/builds/base/fp32"), CELL)
    return decided


def test_images_are_answered_as_they_were_evaluated_and_the_proof_is_kept(
    decision: dict[str, Any], make_build: Callable[..., str], decide: Callable[..., Any], prepared: Path
) -> None:
    said = promote.apply("digits", decision, *WORK)
    assert said.startswith("version 1 of digits is the champion now")
    version, line = registry.version("digits", 1), journal.read().last("digits")
    assert version is not None and line is not None
    assert version.tags[smoke.TAG].startswith("passed: 32 rows, logits within 0 ")
    evidence = line.fields["evidence"]
    assert evidence["smoke"] == version.tags[smoke.TAG] and evidence["matrix_sha256"] == decision["matrix_sha256"]
    assert evidence["cell"] == "base/fp32" and evidence["pipeline_run"]
    assert registry.registered("digits").aliases == {"champion": 1}, "a champion is no challenger any more"

    other = decide("lora/fp32", make_build("lora", "fp32", 2.0), {"version": 1})
    evaluated(prepared, Path("work/builds/lora/fp32"), Path("work/predictions/lora/fp32"))
    promote.apply("digits", other, *WORK)
    shutil.rmtree("work")  # a rollback needs nothing of the workspace
    assert "the rows kept with it" in rollback.back("digits", None, "lora is worse on Mondays")
    assert registry.registered("digits").aliases == {"champion": 1}

    # Its files are changed: the way back is closed, and says so.
    source = registry.version("digits", 2)
    folder = registry.files(source.source) if source else None
    assert folder is not None
    with (folder / "MLmodel").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(TemperError, match=r"version 2 .* cannot take over: .* was changed after .*version 1 "):
        rollback.back("digits", 2, "back again")
    assert registry.registered("digits").aliases == {"champion": 1}


def test_texts_are_answered_as_they_were_evaluated(tracked: Path, shipped: Path, prepared_texts: Path) -> None:
    card = json.loads((shipped / "build.json").read_text("utf-8"))
    parts = {name: shipped / file for name, file in (("model", "model.onnx"), ("build", "build.json"))}
    parts |= {"tokenizer": shipped / "tokenizer.json", "card": tracked / "CARD.md", "licence": tracked / "LICENSE"}
    for name in ("card", "licence"):
        parts[name].write_text("of a test", "utf-8")
    (tracked / "matrix.json").write_text("{}", "utf-8")
    tags = {"digest": runtime.digest(shipped), "cell": "base/fp32", "pipeline_run": "test"}

    def sealed(folder: Path) -> Any:
        return package.seal(folder, signing.configured())

    versions.register("texts", contents.LOADER, parts, card["spec"], tags, tracked / "matrix.json", sealed)
    evaluated(prepared_texts, shipped, CELL)
    assert smoke.challenger("texts", 1, CELL, prepared_texts)["smoke"].startswith("passed: 32 rows")
    assert registry.registered("texts").aliases == {"challenger": 1}


@pytest.mark.hardening("G39", "answers that differ by 0.5")
@pytest.mark.hardening("J54", "the version answers otherwise than was evaluated")
def test_other_answers_than_those_evaluated_move_nothing(decision: dict[str, Any], prepared: Path) -> None:
    given = answers.read(CELL)
    logits = given.logits.copy()
    logits[3] += 0.5
    wrong = answers.Answers(given.row_id, given.labels, logits.argmax(1), logits)
    answers.write(wrong, CELL, prepared / "test.parquet")
    with pytest.raises(
        TemperError, match=r"version 1 .* not promoted: .* 0 get another class, .* up to 0\.5 .* no champion"
    ):
        promote.apply("digits", decision, *WORK)
    version = registry.version("digits", 1)
    assert version is not None and version.tags[smoke.TAG].startswith("failed: its answers are not those evaluated")
    assert registry.registered("digits").aliases == {} and journal.read().lines == []


@pytest.mark.hardening("J54", "figures of other data")
def test_answers_to_other_data_are_no_proof(decision: dict[str, Any], prepared: Path) -> None:
    given = answers.read(CELL)
    answers.write(given, CELL, prepared / "train.parquet")
    with pytest.raises(TemperError, match="answers other data"):
        promote.apply("digits", decision, *WORK)
    assert journal.read().lines == []


LIMITS = {"memory_mb": 1024, "cpu_s": 2, "file_mb": 1, "wall_s": 60}


def asked(client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **limits: int) -> str:
    """What is said of a client that does this."""
    script, folder = tmp_path / "client.py", tmp_path / "folder"
    bound = f"import json, sys\nsys.path.insert(0, {str(smoke.CLIENT.parent)!r})\nimport smoke_client\n"
    bound += "smoke_client.bound(json.loads(sys.argv[4]), int(sys.argv[5]))\n"
    script.write_text(bound + client, "utf-8")
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(smoke, "CLIENT", script)
    with pytest.raises(TemperError) as error:
        smoke._answer(folder, folder, folder, LIMITS | limits)
    return str(error.value)


def test_the_process_sees_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    look = """
import os, resource
kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)
print(json.dumps(dict(env=dict(os.environ), isolated=sys.flags.isolated, here=os.getcwd() in sys.path,
    path=sys.path, limits=[resource.getrlimit(kind)[0] for kind in kinds])))
sys.exit(3)
"""
    said = asked(look, tmp_path, monkeypatch)
    start = "a clean process cannot load it or get an answer (exit code 3): "
    assert said.startswith(start)
    text = (tmp_path / "folder/room/said").read_text("utf-8")
    seen = json.loads(text)
    assert "secret" not in text and str(tmp_path) not in seen["path"]
    assert seen["isolated"] and not seen["here"] and "PYTHONPATH" not in seen["env"]
    assert seen["env"]["HOME"] == str(tmp_path / "folder/room")
    assert seen["limits"] == [1024 << 20, 2, 1 << 20, 0]


@pytest.mark.hardening("G36", "a model that takes memory, time, files: in the limited child")
@pytest.mark.parametrize(
    ("client", "limits", "words"),
    [
        ("bytearray(2 << 30)", {}, "more than 1024 MB"),
        ("while True: pass", {"cpu_s": 1}, "more than 1 s of processor time"),
        ("import time; time.sleep(60)", {"wall_s": 1}, "did not answer within 1 s"),
        ("open(sys.argv[3] + '/big', 'wb').write(bytes(2 << 20))", {}, "File too large"),
        ("raise ValueError('model.onnx was changed')", {}, "model.onnx was changed"),
        ("pass", {}, "its answers cannot be read"),
    ],
)
def test_limits_and_faults_are_told(
    client: str, limits: dict[str, int], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in asked(client, tmp_path, monkeypatch, **limits)


@pytest.mark.hardening("K62", "the mode of private copies")
def test_scratch_is_ours_alone() -> None:
    with smoke.scratch() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


@pytest.mark.hardening("G39", "NaN and other answers than those evaluated")
def test_a_near_tie_may_change_places_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/build.json").write_text(json.dumps({"spec": {"classes": ["a", "b"]}}), "utf-8")
    expected = np.array([[4.0, 1.0], [2.0, 2.0005]], np.float32)
    np.savez(tmp_path / "answers.npz", logits=expected)

    def compare(logits: Any, labels: list[str]) -> float | None:
        given = {"logits": np.array(logits, np.float32), "labels": np.array(labels)}
        return smoke._compare(tmp_path, tmp_path, given)

    assert compare(expected, ["a", "b"]) == 0
    assert compare([[4.0, 1.0], [2.0006, 2.0005]], ["a", "a"]) == pytest.approx(6e-4, rel=0.1)
    for logits, labels in (
        ([[4.0, 1.0], [2.1, 2.0005]], ["a", "a"]),
        ([[4.0, 1.0], [2.0, 2.0005]], ["a", "a"]),  # labels that are not the largest
        ([[4.0, 1.0]], ["a"]),
        ([[4.0, np.nan], [2.0, 2.0005]], ["a", "b"]),
        ([[4.0, 1.0, 0.0], [2.0, 2.1, 0.0]], ["a", "b"]),
    ):
        with pytest.raises(TemperError):
            compare(logits, labels)


def test_threads_do_not_change_an_answer(shipped: Path, prepared_texts: Path) -> None:
    """TOLERANCE rests on it: the smoke test takes as many threads as there are cores, evaluate as params say."""
    rows = read_rows(prepared_texts, "test", Spec.read(prepared_texts)).head(32)
    found = [answers.ask(runtime.open_build(shipped, threads), rows).logits for threads in (1, 2, 4)]
    assert all(np.array_equal(found[0], other) for other in found[1:])
