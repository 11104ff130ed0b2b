"""What the wrapper makes of DVC's answers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import TemperError
from flows import dvc
from flows.outcome import Outcome


def test_plan_says_why_in_words(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.dvc("repro")
    monkeypatch.chdir(workspace.path)
    assert dvc.plan().changes == {}
    assert dvc.plan().always == {"observe", "promote"}

    workspace.write("params.yaml", (workspace.path / "params.yaml").read_text().replace("n: 2", "n: 9"))
    (workspace.path / "work/make/c").unlink()
    plan = dvc.plan()
    assert plan.changes["make@b"] == ["params.yaml: variants.b changed"]
    assert plan.changes["make@c"] == ["its output work/make/c is missing"]
    assert plan.stale() == {"make@b": [], "make@c": [], "join": ["make@b", "make@c"], "promote": ["join"]}
    assert dvc.Plan(plan.parents, {"observe": ["changed"]}, plan.always, plan.outs).stale(apart="observe") == {}


def test_lock_order_is_the_plan_s(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.dvc("repro")
    plain = (workspace.path / "dvc.lock").read_bytes()
    (workspace.path / "dvc.lock").unlink()
    for name in ("observe", "split", "make@c", "make@b", "make@a", "join", "promote"):
        workspace.dvc("repro", "-s", name)
    assert (workspace.path / "dvc.lock").read_bytes() != plain
    monkeypatch.chdir(workspace.path)
    dvc.canonical_lock(list(dvc.plan().parents))
    assert (workspace.path / "dvc.lock").read_bytes() == plain


def test_a_broken_dag_is_told(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.write("dvc.yaml", "stages: [")
    monkeypatch.chdir(workspace.path)
    with pytest.raises(TemperError, match=r"DVC cannot plan: .*dvc\.yaml"):
        dvc.plan()


def test_stages_run_on_this_python_without_activation(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Talkative: what DVC itself says is then far above.
    script = "import sys; print('on\\n' * 500, sys.prefix); open('work/observe', 'w').write('x')"
    workspace.write("work.py", script)
    (workspace.path / "work").mkdir()
    monkeypatch.chdir(workspace.path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said: list[tuple[str, str]] = []
    runner = dvc.Runner("test", 1, 1, lambda name, state, seconds, message: said.append((state, message)), 60)
    assert runner.stage("observe") == "ran"
    assert said == [("running", ""), ("ran", f" {sys.prefix}")]


def test_nothing_starts_after_cancel(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.path)
    runner = dvc.Runner("test", 1, 1, lambda *_: None, 60)
    runner.cancel()
    with pytest.raises(dvc.Cancelled):
        runner.stage("observe")
    assert workspace.ran() == []


def test_driver_lock_names_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with dvc.driver_lock():
        code = "from flows.dvc import driver_lock\nwith driver_lock(): pass"
        root = Path(__file__).resolve().parents[2]
        other = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True
        )
        assert f"pid {os.getpid()}" in other.stderr
    with dvc.driver_lock():
        pass


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"))), st.sets(st.sampled_from("abcdef"))
)
def test_stale_is_changed_and_all_below(parents: dict[str, set[str]], changed: set[str]) -> None:
    order = {name: sorted(up for up in parents[name] if up < name and up in parents) for name in sorted(parents)}
    plan = dvc.Plan(order, {name: ["changed"] for name in changed if name in order}, frozenset(), frozenset())
    stale = plan.stale()
    for name, up in order.items():
        assert (name in stale) == (name in changed or any(parent in stale for parent in up))
    assert all(set(up) <= set(stale) for up in stale.values())


@pytest.mark.parametrize(
    ("codes", "code"), [([], 0), ([3], 3), ([4, 4], 4), ([3, 4], 1), ([1], 1), ([137], 1), ([-9], 1)]
)
def test_exit_code(codes: list[int], code: int) -> None:
    failed = {str(i): dvc.StageFailed(str(i), number, "") for i, number in enumerate(codes)}
    assert Outcome("run", failed=failed).exit_code == code
    assert Outcome("run", failed_cells=["base/fp32"]).exit_code == 1
    assert Outcome("run", stale={"a": []}).exit_code == 1


@pytest.mark.parametrize("trainings", [1, 2])
def test_no_more_trainings_at_once_than_have_cores(trainings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, live, most = dvc.Runner("test", 2, trainings, lambda *_: None, 60), set(), Counter[str]()
    guard, beside = threading.Lock(), threading.Event()

    def work(name: str, _: str | None) -> tuple[dvc.What, str]:
        with guard:
            live.add(name)
            makes = sum(other.startswith("make@") for other in live)
            most["make"] = max(most["make"], makes)
            if 0 < makes < len(live):
                beside.set()
        if name == "make@a":
            beside.wait(5)  # until the other stage runs beside it
        time.sleep(0.05)
        with guard:
            live.remove(name)
        return "ran", ""

    monkeypatch.setattr(runner, "_run", work)
    threads = [threading.Thread(target=runner.stage, args=[name]) for name in ("make@a", "make@b", "make@c", "build@x")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most["make"] == trainings
    assert beside.is_set() or trainings == 2
