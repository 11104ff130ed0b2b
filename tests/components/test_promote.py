from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import observe, promote, record, registry, tracking
from components.cell import Record
from components.errors import TemperError
from components.hashing import sha256_file

FOLDERS = {
    "builds": Path("work/builds"),
    "engines": Path("work/engines"),
    "matrix": Path("work/matrix"),
    "data": Path("work/data/prepared"),
}


def apply(decision: dict[str, Any], **more: Any) -> str:
    return promote.apply("digits", decision, **FOLDERS, **more)


def snapshot(name: str = "digits") -> dict[str, Any]:
    return observe.champion(name, None, same_inputs=False)


def journal() -> list[tuple[int | None, int]]:
    lines = Path("mlruns/promotions.jsonl").read_text("utf-8").splitlines()
    return [(json.loads(line)["from"], json.loads(line)["to"]) for line in lines]


@pytest.fixture
def promoted(tracked: Path, make_build: Callable[..., str], decide: Callable[..., Any]) -> str:
    digest = make_build("base", "fp32")
    apply(decide("base/fp32", digest))
    return digest


def test_a_version_keeps_the_matrix_it_was_chosen_from_but_not_in_the_model(promoted: str, tmp_path: Path) -> None:
    version = registry.version("digits", 1)
    assert version is not None
    kept = tracking.download(version.tags["matrix"], tmp_path)
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
    assert shipped["loader.py"].read_bytes() == promote.LOADER.read_bytes()
    allowed = {"", ".py", ".md", ".json", ".onnx", ".yaml", ".txt"}
    assert {path.suffix for path in shipped.values()} <= allowed, sorted(shipped)
    assert not any(path.read_bytes()[:1] == b"\x80" for path in shipped.values())  # how pickle begins
    assert {"artifacts/model.onnx", "artifacts/build.json", "artifacts/CARD.md", "artifacts/LICENSE"} <= set(shipped)
    card = shipped["artifacts/CARD.md"].read_text("utf-8")
    assert "accuracy 0.9000" in card and "360 test rows" in card


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
    assert snapshot()["rolled_back"] is None
    assert journal() == [(None, 1), (1, 2), (2, 1)]


def test_stale_decision_is_refused(promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]) -> None:
    other = make_build("lora", "fp32", 2.0)
    with pytest.raises(TemperError, match=r"digits is version 1, .* made against none.*again"):
        apply(decide("lora/fp32", other))
    assert registry.registered("digits").aliases == {"champion": 1}


def test_what_was_rolled_back_does_not_return_by_itself(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    other = make_build("lora", "fp32", 2.0)
    apply(decide("lora/fp32", other, snapshot()))
    tracking.client().set_registered_model_alias("digits", "champion", "1")
    now = snapshot()
    assert (now["version"], now["rolled_back"]) == (1, other)
    decision = decide("lora/fp32", other, now)
    assert "rolled back" in apply(decision)
    assert registry.registered("digits").aliases["champion"] == 1
    apply(decision, again=True)
    assert registry.registered("digits").aliases["champion"] == 2


@pytest.mark.parametrize("step", ["create_model_version", "set_registered_model_alias", "set_registered_model_tag"])
def test_killed_half_way_the_next_call_finishes(
    tracked: Path,
    make_build: Callable[..., str],
    decide: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    from mlflow import MlflowClient

    digest = make_build("base", "fp32")
    decision = decide("base/fp32", digest)

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, killed)
        with pytest.raises(SystemExit):
            apply(decision)
    apply(decision)
    found = registry.registered("digits")
    assert (found.aliases, found.promoted) == ({"champion": 1}, 1)
    assert registry.version("digits", 2) is None
    assert apply(decision).startswith("nothing to do")
    assert journal() == [(None, 1)]


@pytest.mark.parametrize("step", ["_finish_journal", "unlink"])
@pytest.mark.parametrize("back", [False, True])
def test_killed_before_the_journal_the_next_call_writes_it_once(
    promoted: str,
    make_build: Callable[..., str],
    decide: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    back: bool,
) -> None:
    decision = decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot())
    moves = [(None, 1), (1, 2)]
    if back:
        apply(decision)
        decision = decide("base/fp32", promoted, snapshot())
        moves.append((2, 1))
    move_alias = tracking.move_alias

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:

        def moved(*arguments: Any) -> None:
            move_alias(*arguments)
            patch.setattr(*((promote, step) if step == "_finish_journal" else (Path, step)), killed)

        patch.setattr(tracking, "move_alias", moved)
        with pytest.raises(SystemExit):
            apply(decision)
    assert apply(decision).startswith("nothing to do")
    assert journal() == moves
    assert apply(decision).startswith("nothing to do") and journal() == moves


def test_a_killed_move_that_did_not_happen_is_journalled_when_it_does(
    promoted: str, make_build: Callable[..., str], decide: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    decision = decide("lora/fp32", make_build("lora", "fp32", 2.0), snapshot())
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "move_alias", killed)
        with pytest.raises(SystemExit):
            apply(decision)
    assert journal() == [(None, 1)]
    apply(decision)
    assert journal() == [(None, 1), (1, 2)]


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


def test_changed_files_are_not_promoted(
    tracked: Path, make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    decision = decide("base/fp32", make_build("base", "fp32"))
    with Path("work/builds/base/fp32/model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(TemperError, match="changed after"):
        apply(decision)


def test_foreign_code_and_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_bytes(promote.LOADER.read_bytes())
    tracking.check_files(tmp_path, promote.LOADER)
    (tmp_path / "loader.py").write_text("import os", "utf-8")
    with pytest.raises(TemperError, match=r"loader\.py"):
        tracking.check_files(tmp_path, promote.LOADER)
