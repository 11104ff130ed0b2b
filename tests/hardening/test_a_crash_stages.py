"""kill -9 in every stage of the real pipeline, small: the next run goes on, and ends as if nothing had happened."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.hashing import sha256_tree
from tests.hardening.killed import ALWAYS, Killed
from tests.workspace import Workspace

SEED = 20261126  # of the moments
TIMED = ("benchmark", "compare", "decide")  # their outputs tell of clocks; what follows them too
MOMENTS = 3  # of each stage: one in each third of it
LOADING_S = 1.2  # of a stage's seconds, until DVC has loaded and starts it


@pytest.fixture(scope="module")
def server(prefect: str) -> dict[str, str]:
    """The standing server, as the environment names it: a server of its own would cost each run five seconds."""
    address, password = prefect.split()
    return {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": password}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: dict[str, str]) -> Workspace:
    """Run once, without a kill."""
    workspace = Workspace(tmp_path_factory.mktemp("whole") / "w")
    workspace("temper", "run", **server)
    return workspace


def kill_tree(killed: Killed, process: subprocess.Popen[str], stage: str) -> None:
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        one.suspend() if one.is_running() else None
    for one in tree:
        one.kill()


def kill_parent(killed: Killed, process: subprocess.Popen[str], stage: str) -> None:
    process.kill()


def kill_child(killed: Killed, process: subprocess.Popen[str], stage: str) -> None:
    if child := killed.task(process, stage):
        child.kill()


def compare(workspace: Workspace, whole: Workspace) -> None:
    """dvc.lock's hashes and the bytes of all that does not tell of clocks are those of the run without a kill.

    Not of `champion` where a version was promoted between two kills: the run without one had none to ask.
    """
    one, two = whole.lock(), workspace.lock()
    assert list(one) == list(two)
    asked = [one.read("work/observed/champion.json")["version"] for one in (whole, workspace)]
    champion = {"champion"} if asked[0] == asked[1] else set()
    for name in one:
        if name.partition("@")[0] not in {*TIMED, *ALWAYS, "champion"} - champion:
            assert one[name] == two[name], name
    for kind in ("data", "models", "builds", "engines", "predictions", *champion):
        assert sha256_tree(workspace.folder / "work" / kind) == sha256_tree(whole.folder / "work" / kind), kind
    keys: Callable[[Any], Any] = lambda cell: (cell["cell"], cell["status"], cell.get("accuracy"), cell.get("digest"))  # noqa: E731
    cells = [sorted(keys(cell) for cell in one.read("work/matrix/matrix.json")["cells"]) for one in (workspace, whole)]
    assert cells[0] == cells[1]


@pytest.mark.drill
@pytest.mark.hardening("A1", "kill -9 in each stage in turn, at three random moments of it (seed 20261126)")
@pytest.mark.timeout(3600, func_only=True)
@pytest.mark.parametrize("kill", [kill_tree, kill_parent, kill_child], ids=["tree", "parent", "child"])
def test_killed_in_every_stage_the_next_run_goes_on_and_ends_as_an_uninterrupted_one(
    kill: Callable[[Killed, subprocess.Popen[str], str], None],
    whole: Workspace,
    server: dict[str, str],
    tmp_path: Path,
    sound: Callable[[Path], None],
    record_property: Callable[[str, object], None],
) -> None:
    killed, moments = Killed(tmp_path / "w", server), random.Random(f"{SEED}{kill.__name__}")  # noqa: S311
    durations: dict[str, float] = whole.read(".temper/durations.json")
    order = [*whole.lock(), "promote"]
    times, early = 0, False
    stages = ("observe", *[name for name in order if name not in ALWAYS], "promote")
    todo = list(product(stages, range(MOMENTS)))
    while todo:
        stage, third = todo.pop(0)
        finished = killed.finished()
        if stage in finished:  # it ended beside one that was killed, or just before the kill: once more, then
            killed.forget(stage)
            finished -= {stage}
        if stage in TIMED:  # if it ends before the kill, what follows has something new to read
            finished -= {*TIMED[TIMED.index(stage) :]}
        # What was promoted is news to these while the decision changes.
        if (killed.workspace.folder / "mlruns/mlflow.db").exists() and killed.workspace.registry()[0]:
            finished -= {"champion", *TIMED[1:]}
            early = early or stage != "promote"
        process = killed.start()
        if not killed.until_begun(process, stage):
            assert stage not in ALWAYS, process.communicate()[0][-3000:]
            todo.insert(0, (stage, third))  # it is in dvc.lock now, and so forgotten
            continue
        share = (third + moments.random()) / MOMENTS
        share /= 2 if stage == "promote" else 1  # nothing comes after it that could be killed in its stead
        time.sleep(share * max(0.1, durations.get(stage, 1.5) - LOADING_S))
        if process.poll() is not None:  # it was so much quicker than the run that was timed
            assert process.returncode == 0, process.communicate()[0][-3000:]
            if stage != "promote":  # which has nothing to do a second time
                durations[stage] /= 2
                todo.insert(0, (stage, third))
            continue
        assert not killed.ran(process) & finished, stage
        kill(killed, process, stage)
        times += 1
        process.communicate(timeout=300)
        assert killed.until_quiet() == [], stage
        assert process.returncode != 0 or kill is kill_child, stage
        assert not killed.ran(process) & finished, stage
    finished = killed.finished()
    last = killed.start()
    said, _ = last.communicate(timeout=600)
    assert last.returncode == 0, said[-3000:]
    assert not killed.ran(last) & finished
    compare(killed.workspace, whole)
    versions, champion = killed.workspace.registry()
    assert champion == versions == len(set(killed.workspace.digests())), "none is made twice"
    assert versions == 1 or early, "what is timed anew between two promotions may choose anew"
    assert times >= MOMENTS * len(stages) - 2
    assert not list((killed.workspace.folder / "work/aside").glob("*"))
    sound(killed.workspace.folder)
    record_property("times", times)
