"""The whole pipeline on real digits, small: both drivers, the registry, experiments, a planted fault.

Each test runs the commands a user would, in a workspace of its own.
"""

from __future__ import annotations

import copy
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from components.hashing import sha256_tree
from tests.workspace import ROOT, SMALL, Workspace

IN_ORDER = True  # some go on in the workspace of the one before: benchmarks/drill.py runs all of them
TIMED = ("benchmark", "compare", "decide", "promote")  # what is timed, and what follows from it


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run by `dvc repro`."""
    workspace = Workspace(tmp_path_factory.mktemp("plain"))
    workspace("dvc", "repro")
    workspace.commit()
    return workspace


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run by `temper run`."""
    workspace = Workspace(tmp_path_factory.mktemp("flow"))
    said = workspace("temper", "run")
    assert "base/fp32" in said
    workspace.commit()
    return workspace


def test_both_drivers_leave_the_same(plain: Workspace, flow: Workspace) -> None:
    """dvc.lock in the same order with the same hashes but for what is timed; identical models and predictions."""
    one, two = plain.lock(), flow.lock()
    assert list(one) == list(two)
    for name in one:
        if name.partition("@")[0] not in TIMED:
            assert one[name] == two[name], name
    timed = {name for name in one if one[name] != two[name]}
    assert {name.partition("@")[0] for name in timed} <= set(TIMED)
    for kind in ("models", "builds", "predictions"):
        assert {path for path in (plain.folder / "work" / kind).rglob("*")}
        for path in (plain.folder / "work" / kind).rglob("*"):
            twin = flow.folder / path.relative_to(plain.folder)
            assert path.is_dir() or path.read_bytes() == twin.read_bytes(), path


@pytest.mark.parametrize("driver", ["plain", "flow"])
def test_a_champion_is_registered_and_answers_raw_images_anywhere(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    workspace: Workspace = request.getfixturevalue(driver)
    assert workspace.registry() == (1, 1)
    decision = workspace.read("work/decision/decision.json")
    assert decision["action"] == "promote"
    code = (
        "import importlib.util, sys\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'Editable' not in getattr(finder, '__name__', '')]\n"
        "assert importlib.util.find_spec('components') is None\n"
        "import mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model('models:/digits@champion')\n"
        "from sklearn.datasets import load_digits\n"
        "digits = load_digits()\n"
        "answers = np.asarray(model.predict(digits.images[:200])).ravel()\n"
        "print((answers.astype(str) == digits.target[:200].astype(str)).mean())\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "MLFLOW_TRACKING_URI": f"sqlite:///{workspace.folder}/mlruns/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.split()[-1]) > 0.6
    for path in (workspace.folder / "mlruns").rglob("*"):
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".bin"), path


@pytest.mark.parametrize("driver", ["plain", "flow"])
def test_a_second_run_does_nothing(driver: str, request: pytest.FixtureRequest) -> None:
    workspace: Workspace = request.getfixturevalue(driver)
    before, registry = workspace.lock(), workspace.registry()
    said = workspace(*(("dvc", "repro") if driver == "plain" else ("temper", "run")))
    assert "make" not in [word for line in said.splitlines() if "Running stage" in line for word in line.split("'")]
    assert workspace.lock() == before
    assert workspace.registry() == registry


def test_a_learning_rate_is_found_and_nothing_changes(plain: Workspace) -> None:
    before, lock = sha256_tree(plain.folder / "work"), plain.lock()
    said = plain("temper", "lr-find", "pruned", "--steps", "50")
    assert "pruned: prune from base" in said and "in params.yaml: variants.pruned.fit.optimizer.lr" in said
    assert sha256_tree(plain.folder / "work") == before and plain.lock() == lock

    changed = copy.deepcopy(SMALL["variants"])
    changed["base"]["fit"]["epochs"] = 4
    plain.write_params({"variants": changed})
    try:
        said = plain("temper", "lr-find", "pruned", code=1)
    finally:
        plain.write_params(SMALL)
    assert "out of date (stage make@base); make it with: dvc repro make@base" in said


def test_what_cannot_be_measured_says_so(plain: Workspace) -> None:
    matrix = plain.read("work/matrix/matrix.json")
    cells = {cell["cell"]: cell for cell in matrix["cells"]}
    assert set(cells) == {f"{v}/{t}" for v in SMALL["variants"] for t in SMALL["targets"]}
    if plain.read("work/observed/host.json")["gpu"] is None:
        assert cells["base/trt_fp16"]["status"] == "not measured"
        assert "CUDA" in cells["base/trt_fp16"]["reason"]
    assert cells["pruned/fp32"]["size_mb"] < cells["base/fp32"]["size_mb"]
    assert {cells[name]["status"] for name in ("base/fp32", "base/int8_dynamic", "pruned/fp32")} == {"ok"}


def test_runs_compare_with_the_same_keys(plain: Workspace) -> None:
    with sqlite3.connect(f"file:{plain.folder}/mlruns/mlflow.db?mode=ro", uri=True) as store:
        rows = store.execute(
            "SELECT t.value, m.key FROM latest_metrics m JOIN tags t ON t.run_uuid = m.run_uuid AND t.key = 'cell'"
        ).fetchall()
        running = store.execute("SELECT COUNT(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0]
    keys: dict[str, set[str]] = {}
    for cell, key in rows:
        keys.setdefault(cell, set()).add(key)
    assert {"base/fp32", "base/int8_dynamic", "pruned/fp32", "pruned/int8_dynamic"} <= set(keys)
    assert len({frozenset(found) for found in keys.values()}) == 1
    assert running == 0


def test_dvc_reads_the_results(plain: Workspace) -> None:
    assert "accuracy" in plain("dvc", "metrics", "show", "--json")
    plain("dvc", "plots", "show")
    page = (plain.folder / "dvc_plots" / "index.html").read_text("utf-8")
    assert "pruned: training loss" in page and "every cell that was measured" in page
    assert 'src="http' not in page  # nothing is fetched from the network to draw it
    assert "make@pruned" in plain("dvc", "dag", "--md")


def readme_commands() -> list[str]:
    """What the README's shell blocks say, but for what starts a set-up or a server."""
    blocks = (ROOT / "README.md").read_text("utf-8").split("```sh\n")[1:]
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.split("```")[0].splitlines()]
    return [line for line in lines if line and not line.startswith("make ") and line not in ("temper ui", "temper up")]


@pytest.mark.parametrize("command", readme_commands())
def test_the_readme_tells_the_truth(plain: Workspace, command: str) -> None:
    before = plain.registry()
    plain(*shlex.split(command))
    assert plain.registry() == before
    if "exp run" in command:
        plain("git", "checkout", "-q", ".")
        plain("dvc", "checkout", "-q")


def test_an_experiment_never_moves_the_registry_nor_does_the_run_after_it(plain: Workspace) -> None:
    """Every build is another, and the results stay in the workspace: only `temper promote` may promote them."""
    before = plain.registry()
    said = plain("dvc", "exp", "run", "-S", "seed=1", "--name", "reseeded")
    winner = plain.read("work/decision/decision.json")["winner"]["cell"]
    assert f"would make {winner}" in said
    assert plain.registry() == before
    shown = json.loads(plain("dvc", "exp", "show", "--json").splitlines()[-1] or "[]")
    assert "reseeded" in json.dumps(shown)
    assert "seed" in plain("dvc", "params", "diff")

    for command in (("temper", "run"), ("dvc", "repro")):
        said = " ".join(plain(*command).split())
        assert "that of experiment reseeded" in said and "temper promote" in said
        assert plain.registry() == before
    plain("temper", "promote")
    assert plain.registry() == (before[0] + 1, before[0] + 1)
    plain("git", "checkout", "-q", ".")
    plain("dvc", "checkout", "-q")


@pytest.mark.hardening("J56", "rollback without work/, twice, and forth")
def test_back_and_forth_in_one_command_each(plain: Workspace) -> None:
    """After the experiment's promotion, which a real smoke test let pass; without work/, as after a clone."""
    lines = [json.loads(line) for line in plain("temper", "history", "--json").splitlines()]
    assert [(line["from"], line["to"]) for line in lines] == [(None, 1), (1, 2)]
    assert all(line["evidence"]["smoke"].startswith("passed: 32 rows") for line in lines)
    (plain.folder / "work").rename(plain.folder / "aside")
    try:
        said = plain("temper", "rollback", "--reason", "worse at night")
    finally:
        (plain.folder / "aside").rename(plain.folder / "work")
    assert "is the champion again, before it version 2; it answered the rows kept with it first" in said
    assert plain.registry() == (2, 1)
    assert "no earlier champion" in plain("temper", "rollback", "--reason", "again", code=1)
    assert "rolled back" in plain("temper", "show", "2")
    plain("temper", "rollback", "2", "--reason", "it was the lamp")
    assert plain.registry() == (2, 2)
    params = plain.folder / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("objective: latency_ms", "objective: size_mb"))
    assert "Beware: the decision is older than code, params or data here" in plain("temper", "promote", "--dry-run")
    params.write_text(before)


def test_a_fault_in_one_cell_costs_one_cell(plain: Workspace, tmp_path: Path) -> None:
    """A planted exception: the rest is measured, the run is red, and only that cell is done again."""
    plant = tmp_path / "plant"
    plant.mkdir()
    (plant / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'components.stage' in sys.orig_argv:\n"
        "    from components.targets import TARGETS\n"
        "    def run(*args, **kwargs): raise RuntimeError('planted')\n"
        "    TARGETS['onnx_int8_dynamic'].run = run\n"
    )
    params = {
        **SMALL,
        "targets": {**SMALL["targets"], "int8_dynamic": {**SMALL["targets"]["int8_dynamic"], "per_channel": False}},
    }
    plain.write_params(params)
    environment = {"PYTHONPATH": f"{plant}:{plain.folder}"}
    said = plain("dvc", "repro", code=None, **environment)
    assert "planted" in said
    cells = {cell["cell"]: cell for cell in plain.read("work/matrix/matrix.json")["cells"]}
    assert cells["base/int8_dynamic"]["status"] == "failed"
    assert "planted" in cells["base/int8_dynamic"]["reason"]
    assert cells["base/fp32"]["status"] == "ok" and cells["base/fp32"]["latency_ms"]
    red = plain("dvc", "repro", code=None, **environment)
    assert "ERROR" in red

    said = plain("dvc", "repro")
    assert "Running stage 'build@base'" in said and "Running stage 'make@base'" not in said
    assert "fp32: kept from the run before" in said and "int8_dynamic: kept" not in said
    cells = {cell["cell"]: cell for cell in plain.read("work/matrix/matrix.json")["cells"]}
    assert {cell["status"] for cell in cells.values()} <= {"ok", "not measured"}
    plain.commit()


def test_bad_data_stop_the_run_before_any_training(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    lines = [",".join([*(f"pixel_{i}" for i in range(64)), "target"])]
    (tmp_path / "digits.csv").write_text("\n".join(lines) + "\n")
    workspace.write_params({**SMALL, "source": {"kind": "csv", "path": "digits.csv", "delimiter": ","}})
    said = workspace("temper", "run", code=3)
    assert "digits.csv" in said
    assert not (tmp_path / "work" / "models").exists()


def test_bad_params_stop_the_run_before_any_work(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_params({**SMALL, "seed": -1, "threads": 0})
    said = workspace("temper", "run", code=2)
    assert "seed" in said and "threads" in said
    assert not (tmp_path / "work").exists()
