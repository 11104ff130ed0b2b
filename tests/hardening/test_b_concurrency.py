"""Many at once: stages, writers of a tracking database, pipelines, flows."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import objects

ROOT = Path(__file__).resolve().parents[2]

TWELVE = """
import json, sys, threading
from flows import dvc
from flows.runner import Runner
runner, how = Runner("twelve", 12, 12, lambda *_: None, 600), {}
def one(name):
    try:
        how[name] = dvc.patiently(lambda: runner.stage(name))
    except Exception as error:
        how[name] = repr(error)
threads = [threading.Thread(target=one, args=[f"make@v{n}"]) for n in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(how))
"""


@pytest.mark.drill
@pytest.mark.hardening("B9", "12 stages at once, through the runner")
def test_twelve_stages_at_once_all_end_and_all_are_in_the_lock_file(
    workspace: Any, record_property: Callable[[str, object], None]
) -> None:
    workspace.write("params.yaml", "variants:\n" + "".join(f"  v{n}: {{n: {n}}}\n" for n in range(12)))
    workspace.dvc("repro", "split")
    done = subprocess.run(
        [sys.executable, "-c", TWELVE], cwd=workspace.path, env=workspace.env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {f"make@v{n}": "ran" for n in range(12)}
    locked = objects.locked((workspace.path / "dvc.lock").read_text("utf-8"))
    assert {f"make@v{n}" for n in range(12)} <= set(locked)
    assert workspace.until_quiet() == []
    record_property("times", 12)


WRITER = """
import sys, time, logging
from pathlib import Path
from components import tracking
from mlflow.entities import Metric
number = int(sys.argv[1])
Path(f"ready{number}").touch()
while len(list(Path().glob("ready*"))) < 8: time.sleep(0.01)
client = tracking.client()
run = client.create_run("0", tags={"writer": str(number)}).info.run_id
took = []
for step in range(200):
    began = time.monotonic()
    client.log_metric(run, "value", float(number * 1000 + step), step=step)
    took.append(time.monotonic() - began)
client.set_terminated(run)
print(sorted(took)[197])
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> tuple[Path, list[Any]]:
    """The workspace of eight processes that opened a fresh store at once and wrote 200 metrics each; what they said."""
    folder = tmp_path_factory.mktemp("eight")
    eight = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(number)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    return folder, [(*process.communicate(timeout=300), process.returncode) for process in eight]


@pytest.mark.drill
@pytest.mark.hardening("B10", "8 processes open a fresh tracking database at once")
def test_eight_processes_on_a_fresh_database_all_succeed(
    written: tuple[Path, list[Any]], record_property: Callable[[str, object], None]
) -> None:
    folder, said = written
    assert [code for _, _, code in said] == [0] * 8, said
    with sqlite3.connect(folder / "mlruns/mlflow.db") as store:
        assert store.execute("SELECT COUNT(*) FROM alembic_version").fetchone() == (1,)
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [path.name for path in (folder / "mlruns").glob(".mlflow.db.*")] == []
    record_property("times", 8)


@pytest.mark.drill
@pytest.mark.hardening("B11", "8 processes write 200 metrics each at once")
def test_no_metric_is_lost_and_no_writer_waits_for_five_seconds(
    written: tuple[Path, list[Any]], record_property: Callable[[str, object], None]
) -> None:
    folder, said = written
    assert not any("locked" in err for _, err, _ in said)
    with sqlite3.connect(folder / "mlruns/mlflow.db") as store:
        rows = store.execute("SELECT value, step FROM metrics WHERE key = 'value'").fetchall()
    assert sorted(rows) == sorted((float(n * 1000 + step), step) for n in range(8) for step in range(200))
    assert max(float(out.split()[-1]) for out, _, _ in said) < 5  # 99 of 100 calls were quicker
    record_property("times", len(rows))


@pytest.mark.drill
@pytest.mark.hardening("B12", "`dvc repro` while `temper run` is at work in the same workspace")
def test_a_plain_repro_beside_a_run_waits_or_is_told_and_outputs_are_of_one(served: Any, tmp_path: Path) -> None:
    served.write("work.py", served_slowly((served.path / "work.py").read_text()))
    driven = served.start()
    served.until_ran("split")
    plain = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=served.path, env=served.env, capture_output=True, text=True
    )
    driven.communicate(timeout=120)
    said = plain.stdout + plain.stderr
    assert plain.returncode == 0 or "busy" in said or "lock" in said, said
    code, outcome, err = served.drive()  # whoever was refused tries again
    assert code == 0, (outcome, err)
    locked = objects.locked((served.path / "dvc.lock").read_text("utf-8"))
    for outs in locked.values():
        for path, oid in outs.items():
            assert objects.name_of(objects.found(served.path / path)) == oid, path


def served_slowly(work: str) -> str:
    return work.replace('if name != "promote":', 'time.sleep(1.5)\nif name != "promote":', 1)


@pytest.mark.drill
@pytest.mark.hardening("B13", "4 flows start at once on a fresh PREFECT_HOME")
def test_four_flows_on_a_fresh_home_of_prefect_all_succeed(
    workspace: Any, tmp_path_factory: pytest.TempPathFactory, record_property: Callable[[str, object], None]
) -> None:
    import shutil

    home = tmp_path_factory.mktemp("fresh")
    env = workspace.env | {"PREFECT_HOME": str(home)}
    places = [tmp_path_factory.mktemp("flow") / "w" for _ in range(4)]
    for place in places:
        shutil.copytree(workspace.path, place)
    flows = [type(workspace)(place.resolve(), env) for place in places]
    started = [flow.start() for flow in flows]
    said = [(*process.communicate(timeout=400), process.returncode) for process in started]
    assert [code for _, _, code in said] == [0] * 4, said
    assert all(flow.until_quiet() == [] for flow in flows)
    locks = {(place / "dvc.lock").read_bytes() for place in places}
    assert len(locks) == 1
    record_property("times", 4)


@pytest.mark.drill
@pytest.mark.hardening("B14", "two workspaces with one cache compute the same at once")
def test_one_key_computed_twice_at_once_is_one_whole_artifact(
    workspace: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import shutil

    cache = tmp_path_factory.mktemp("cache")
    config = workspace.path / ".dvc/config"
    config.write_text(config.read_text() + f"[cache]\n    dir = {cache}\n")
    twin = tmp_path_factory.mktemp("twin") / "w"
    shutil.copytree(workspace.path, twin)
    two = [
        subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=place,
            env=workspace.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in (workspace.path, twin)
    ]
    said = [(process.communicate(timeout=200)[0], process.returncode) for process in two]
    assert [code for _, code in said] == [0, 0], said
    assert (workspace.path / "dvc.lock").read_bytes() == (twin / "dvc.lock").read_bytes()
    stored = [path for path in (cache / "files/md5").rglob("*") if path.is_file()]
    for path in stored:
        assert objects.md5(path) == (path.parent.name + path.name).removesuffix(".dir")


@pytest.mark.hardening("B14", "data, params, code are changed one by one")
@pytest.mark.parametrize("change", ["data", "params", "code"])
def test_what_decides_the_bytes_is_in_the_key(tmp_path: Path, change: str) -> None:
    from components.hashing import fingerprint

    data, code = tmp_path / "data", tmp_path / "code.py"
    data.write_text("1")
    code.write_text("pass")
    params: dict[str, Any] = {"seed": 1, "fit": {"lr": 0.1}}
    before = fingerprint(params, data, code)
    assert fingerprint(json.loads(json.dumps(params)), data, code) == before
    if change == "params":
        params["fit"]["lr"] = 0.2
    else:
        (data if change == "data" else code).write_text("2")
    assert fingerprint(params, data, code) != before
