from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import contents, move, observe, promote, record, registry, rollback, smoke, tracking, versions
from components import journal as journals
from components.cell import Record
from components.errors import TemperError
from components.hashing import sha256_file

pytestmark = pytest.mark.usefixtures("no_smoke")
FOLDERS = {
    "builds": Path("work/builds"),
    "engines": Path("work/engines"),
    "predictions": Path("work/predictions"),
    "matrix": Path("work/matrix"),
    "data": Path("work/data/prepared"),
}


def apply(decision: dict[str, Any], **more: Any) -> str:
    return promote.apply("digits", decision, **FOLDERS, **more)


def snapshot(name: str = "digits") -> dict[str, Any]:
    return observe.champion(name, None, same_inputs=False)


@pytest.fixture
def promoted(tracked: Path, make_build: Callable[..., str], decide: Callable[..., Any]) -> str:
    digest = make_build("base", "fp32")
    apply(decide("base/fp32", digest))
    return digest


def test_a_version_keeps_the_matrix_it_was_chosen_from_but_not_in_the_model(promoted: str, tmp_path: Path) -> None:
    version = registry.version("digits", 1)
    assert version is not None
    kept = versions.download(version.tags["matrix"], tmp_path)
    assert kept.read_bytes() == Path("work/matrix/matrix.json").read_bytes()
    folder = registry.files(version.source)
    assert folder is not None
    assert not list(folder.rglob("matrix.json"))  # it shows rows of the test data; the model is given away


CLIENT = """
import json, sys, mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/digits@champion")
images = np.arange(3 * 64).reshape(3, 8, 8) % 17
answers = {str(t): model.predict(images.astype(t)).tolist() for t in ("int64", "uint8", "float32", "float64")}
answers["list"] = model.predict(images.tolist()).tolist()
shares = model.predict(images, params={"output": "probabilities"})
refused = []
for wrong in (images[0], images[:, :7], np.full((1, 8, 8), np.nan), np.zeros((0, 8, 8)), np.array([["a"]])):
    try:
        model.predict(wrong)
    except Exception as error:
        refused.append(str(error))
print(json.dumps({"answers": answers, "sums": shares.sum(1).tolist(), "best": shares.argmax(1).tolist(),
    "refused": refused, "temper": [name for name in sys.modules if name.startswith("components")],
    "inputs": model.metadata.get_input_schema().to_dict(), "example": model.input_example is not None}))
"""


def test_champion_answers_in_a_clean_process_elsewhere(promoted: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(elsewhere), "MLFLOW_TRACKING_URI": registry.address()}
    env |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    # -P: what is installed counts, not what lies in the current folder
    done = subprocess.run(
        [sys.executable, "-P", "-c", CLIENT], cwd=elsewhere, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    answers = list(got["answers"].values())
    assert len(answers[0]) == 3 and all(answer == answers[0] for answer in answers)
    assert answers[0] == [str(best) for best in got["best"]]
    assert got["sums"] == pytest.approx([1, 1, 1], abs=1e-5)
    assert got["temper"] == []
    assert [entry["tensor-spec"]["shape"] for entry in got["inputs"]] == [[-1, 8, 8]]
    shape, narrow, nan, none, words = got["refused"]
    assert "(8, 8)" in shape and "(3, 7, 8)" in narrow and "NaN" in nan and "no rows" in none and "numbers" in words


def test_nothing_pickled_and_no_code_but_the_loader(promoted: str) -> None:
    source = registry.champion("digits").source  # type: ignore[union-attr]
    folder = registry.files(source)
    assert folder is not None and not Path(source).is_absolute()
    shipped = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert [name for name in shipped if name.endswith(".py")] == ["loader.py"]
    assert shipped["loader.py"].read_bytes() == contents.LOADER.read_bytes()
    allowed = {"", ".py", ".md", ".json", ".onnx", ".yaml", ".txt"}
    assert {path.suffix for path in shipped.values()} <= allowed, sorted(shipped)
    assert not any(path.read_bytes()[:1] == b"\x80" for path in shipped.values())  # how pickle begins
    assert {"artifacts/model.onnx", "artifacts/build.json", "artifacts/CARD.md", "artifacts/LICENSE"} <= set(shipped)
    card = shipped["artifacts/CARD.md"].read_text("utf-8")
    assert "| accuracy | 0.9000 (" in card and "360 test rows" in card


def test_version_names_what_made_it(promoted: str) -> None:
    found = registry.champion("digits")
    assert found is not None and found.version == 1 and found.digest == promoted
    for tag in ("cell", "variant", "target", "data.sha256", "params.sha256", "pipeline_run", "matrix_row", "host"):
        assert found.tags[tag], tag
    assert json.loads(found.tags["matrix_row"])["accuracy"] == 0.9


def test_same_bytes_make_no_second_version(promoted: str, decide: Callable[..., Any]) -> None:
    assert apply(decide("base/fp32", promoted)).startswith("nothing to do")
    assert registry.version("digits", 2) is None


def test_new_winner_moves_the_alias_and_keeps_the_one_before(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    other = make_build("lora", "fp32", 2.0)
    done = apply(decide("lora/fp32", other, snapshot()))
    assert "version 2" in done and "before it version 1" in done
    assert registry.registered("digits").aliases == {"champion": 2, "previous": 1}
    # and back, by a decision: the version that is there is used again
    assert "version 1" in apply(decide("base/fp32", promoted, snapshot()))
    assert registry.registered("digits").aliases == {"champion": 1, "previous": 2}
    assert snapshot()["rolled_back"] == []
    assert journal() == [(None, 1), (1, 2), (2, 1)]


@pytest.mark.hardening("J54", "a decision against another champion")
def test_stale_decision_is_refused(promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]) -> None:
    other = make_build("lora", "fp32", 2.0)
    with pytest.raises(TemperError, match=r"digits is version 1, .* decided against none.*stale.*again"):
        apply(decide("lora/fp32", other))
    assert registry.registered("digits").aliases == {"champion": 1}


@pytest.mark.hardening("J54", "a failing gate made to pass by hand; another matrix")
def test_a_decision_that_its_matrix_does_not_bear_out_is_refused(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    decision = decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot())
    cells = {"lora/fp32": {"feasible": False, "reasons": ["worse"]}}
    with pytest.raises(TemperError, match="does not meet the policy: it was changed by hand"):
        apply(decision | {"cells": cells})
    with Path("work/matrix/matrix.json").open("a") as file:
        file.write(" ")
    with pytest.raises(TemperError, match=r"was not made of work/matrix/matrix.json as it is now"):
        apply(decision)
    assert state()[:2] == ({"champion": 1}, [(None, 1)])


@pytest.mark.hardening("J54", "the version does not answer")
def test_what_fails_the_smoke_test_moves_nothing_and_the_next_call_tries_again(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: Any) -> dict[str, Any]:
        raise TemperError("version 2 of digits was registered, but not promoted")

    decision = decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot())
    with monkeypatch.context() as patch:
        patch.setattr(smoke, "challenger", failed)
        with pytest.raises(TemperError, match="not promoted"):
            apply(decision)
    assert state() == ({"champion": 1}, [(None, 1)], [])
    assert "version 2" in apply(decision)
    assert registry.version("digits", 3) is None


def test_what_came_too_late_stays_the_challenger(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody promotes while the smoke test runs: on a server no lock is between them."""
    late = decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot())
    passed = smoke.challenger

    def overtaken(name: str, number: int, *given: Any) -> dict[str, Any]:
        evidence = passed(name, number, *given)
        client = tracking.client()
        client.create_model_version(name, "mlruns/none", tags={"digest": "theirs"})
        move.champion(name, 3, 1, "promote", "from elsewhere", {})
        return evidence

    monkeypatch.setattr(smoke, "challenger", overtaken)
    with pytest.raises(TemperError, match="version 3, but this was decided against version 1: that base is stale"):
        apply(late)
    assert state() == ({"challenger": 2, "champion": 3, "previous": 1}, [(None, 1), (1, 3)], [])


@pytest.mark.hardening("J56", "rolled back, then the same decision again")
def test_what_was_rolled_back_does_not_return_by_itself(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    other = make_build("lora", "fp32", 2.0)
    apply(decide("lora/fp32", other, snapshot()))
    tracking.client().set_registered_model_alias("digits", "champion", "1")
    now = snapshot()
    assert (now["version"], now["rolled_back"]) == (1, [other])
    decision = decide("lora/fp32", other, now)
    assert "rolled back" in apply(decision)
    assert registry.registered("digits").aliases["champion"] == 1
    apply(decision, again=True)
    assert registry.registered("digits").aliases["champion"] == 2


@pytest.mark.hardening("J56", "rolled back; then another build of the same run wins, of other params, of other data")
@pytest.mark.parametrize(
    ("changed", "text"),
    [(None, ""), ("params.yaml", "seed: 0 # zero"), ("params.yaml", "seed: 7"), ("work/data/prepared/more", "1")],
    ids=["nothing", "a comment", "params", "data"],
)
def test_the_next_best_of_the_same_run_does_not_undo_a_rollback(
    changed: str | None, text: str, promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    apply(decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot()))
    rollback.back("digits", None, "slow on Mondays")
    if changed:
        before = Path(changed).read_text("utf-8") if Path(changed).exists() else ""
        Path(changed).write_text(before.replace("seed: 0", text) or text, "utf-8")
    said = apply(decide("pruned/fp32", make_build("pruned", "fp32", 3.0), snapshot()))
    if changed and "#" not in text:
        assert "version 3 of digits is the champion now" in said
    else:
        assert "nothing to do: version 2 of digits, which was rolled back, was made of the very same data" in said
        assert "pruned/fp32 does not take its place by itself; the champion is version 1" in said
        assert registry.registered("digits").aliases["champion"] == 1
        assert "version 3" in apply(decide("pruned/fp32", make_build("pruned", "fp32", 3.0), snapshot()), again=True)


def test_a_build_whose_version_was_damaged_is_registered_once_more(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    apply(decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot()))
    damaged = registry.files(registry.champion("digits").source)  # type: ignore[union-attr]
    assert damaged is not None
    (damaged / "artifacts/model.onnx").write_bytes(b"damaged")
    rollback.back("digits", None, "it does not load")
    again = apply(decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot()), again=True)
    assert "version 3 of digits is the champion now" in again


@pytest.mark.hardening("A8", "kill -9 of a promotion, then a dry run")
def test_a_dry_run_finishes_no_promotion(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise SystemExit

    decision = decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot())
    with monkeypatch.context() as patch:
        patch.setattr(move.versions, "set_aliases", killed)
        with pytest.raises(SystemExit):
            apply(decision)
    before = state()
    assert before[0]["champion"] == 1 and "nothing was moved" in apply(decision, dry_run=True)
    assert state() == before
    apply(decision)
    assert state()[0]["champion"] == 2


def test_without_a_champion_too_what_was_rolled_back_does_not_return(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    apply(decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot()))
    rollback.back("digits", None, "slow on Mondays")
    for number in ("1", "2"):
        tracking.client().delete_model_version("digits", number)
    said = apply(decide("lora/fp32", make_build("lora", "fp32", 2.0), {"version": None}))
    assert "was a version of digits, deleted since, which was rolled back; the champion is none" in said
    assert registry.version("digits", 3) is None


def journal() -> list[tuple[int | None, int]]:
    return [(line.before, line.to) for line in journals.read().lines]


def state() -> tuple[dict[str, int], list[tuple[int | None, int]], list[str]]:
    """(aliases, journal, what is wrong with it)."""
    found = registry.registered("digits")
    return dict(found.aliases), journal(), journals.tampered(journals.read(), "digits", found.journalled)


def killer(step: Callable[..., Any], nth: int, when: str) -> Callable[..., Any]:
    """`step`, whose `nth` call ends the process before or after it is done."""
    calls = iter(range(1, 100))

    def killed(*given: Any, **named: Any) -> Any:
        if next(calls) != nth:
            return step(*given, **named)
        if when == "after":
            step(*given, **named)
        raise SystemExit

    return killed


# Every call of a promotion that leaves something behind, in the order in which they come, and the how manieth.
STEPS = [
    ("set_registered_model_alias", 1),  # challenger
    ("_write", 1),  # the journal
    ("delete_registered_model_alias", 1),  # previous, as it is to be the champion
    ("set_registered_model_alias", 2),  # champion
    ("set_registered_model_alias", 3),  # previous
    ("delete_registered_model_alias", 2),  # challenger
    ("set_registered_model_tag", 1),  # which line was carried out
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.hardening("A8", "killed before and after each of 7 steps of a promotion")
def test_killed_between_any_two_steps_the_next_call_finishes(
    promoted: str,
    make_build: Callable[..., str],
    decide: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """To and fro between two versions, each time killed at another step."""
    from mlflow import MlflowClient

    cells = {2: ("lora/fp32", make_build("lora", "fp32", 2.0)), 1: ("base/fp32", promoted)}
    apply(decide(*cells[2], snapshot()))
    for name, nth in STEPS:
        place = journals if name == "_write" else MlflowClient
        (aliases, moves, _), (cell, digest) = state(), cells[3 - snapshot()["version"]]
        before, to = aliases["champion"], 3 - aliases["champion"]
        decision = decide(cell, digest, snapshot())
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killer(getattr(place, name), nth, when))
            with pytest.raises(SystemExit):
                apply(decision)
        half = registry.registered("digits").aliases
        assert half["champion"] in (before, to) and half["champion"] != half.get("previous"), (name, nth)
        assert "champion" in apply(decision), (name, nth)
        done = ({"champion": to, "previous": before}, [*moves, (before, to)], [])
        assert state() == done, (name, nth)
        assert apply(decision).startswith("nothing to do") and state() == done, (name, nth)
    assert registry.version("digits", 3) is None


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["create_model_version", "set_registered_model_alias", "set_registered_model_tag"])
@pytest.mark.hardening("A8", "killed before and after the steps of a first promotion")
def test_killed_in_the_first_promotion_the_next_call_finishes(
    tracked: Path,
    make_build: Callable[..., str],
    decide: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    when: str,
) -> None:
    from mlflow import MlflowClient

    decision = decide("base/fp32", make_build("base", "fp32"))
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, killer(getattr(MlflowClient, step), 1, when))
        with pytest.raises(SystemExit):
            apply(decision)
    apply(decision)
    assert state() == ({"champion": 1}, [(None, 1)], [])
    assert registry.version("digits", 2) is None
    assert apply(decision).startswith("nothing to do")


@pytest.mark.parametrize("name", ["DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "TEMPER_DRY_RUN"])
def test_experiments_never_move_the_registry(
    workspace: Path,
    make_build: Callable[..., str],
    decide: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv(name, "1")
    assert "would make base/fp32" in apply(decide("base/fp32", make_build("base", "fp32")))
    assert not Path("mlruns/mlflow.db").exists()


def test_failed_cells_make_it_red_after_promoting(
    tracked: Path, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    decide("base/fp32", make_build("base", "fp32"), failed=("lora/fp32", "lora/int8"))
    Record("failed", "boom").write(Path("work/builds/lora/int8"))
    Record("failed", "boom").write(Path("work/predictions/lora/int8"))  # evaluate repeats what build said
    Path("work/benchmark").mkdir()
    cells = {cell: {"status": "failed", "reason": "boom"} for cell in ("lora/fp32", "lora/int8")}
    Path("work/benchmark/cells.json").write_text(json.dumps(cells), "utf-8")
    with pytest.raises(TemperError) as error:
        promote.run("digits", Path("work/decision"), **FOLDERS)
    assert str(error.value) == (
        "2 failed: lora/fp32 in benchmark, see work/benchmark/cells.json; "
        "lora/int8 in build, see work/builds/lora/int8/record.json; the next run tries these stages again"
    )
    assert registry.champion("digits") is not None


def test_a_version_names_the_params_its_run_started_with(
    tracked: Path, make_build: Callable[..., str], decide: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_RUN", "flow-1")
    started = sha256_file(Path("params.yaml"))
    record.Recorder("make", "base", {}).end("FINISHED", {}, [])
    Path("params.yaml").write_text(Path("params.yaml").read_text("utf-8") + "# edited meanwhile\n", "utf-8")
    apply(decide("base/fp32", make_build("base", "fp32")))
    found = registry.champion("digits")
    assert found is not None and found.tags["params.sha256"] == started


@pytest.mark.hardening("J54", "a build changed after it was measured")
def test_changed_files_are_not_promoted(
    tracked: Path, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    decision = decide("base/fp32", make_build("base", "fp32"))
    with Path("work/builds/base/fp32/model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(TemperError, match="changed after"):
        apply(decision)
