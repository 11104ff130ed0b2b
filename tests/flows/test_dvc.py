"""What the wrapper makes of DVC's answers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import TemperError
from flows import dvc


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


@pytest.mark.hardening("A2", "dvc.lock is cut off within each line of it, as a kill of DVC leaves it")
def test_a_lock_that_was_cut_off_is_put_back(
    workspace: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    """Of many cuts DVC would say nothing: what is left reads as the record of fewer stages, or of half an output."""
    workspace.dvc("repro")
    monkeypatch.chdir(workspace.path)
    assert dvc.plan().changes == {}
    lock, silent = workspace.path / "dvc.lock", 0
    whole = lock.read_text()
    ends = [i for i, letter in enumerate(whole) if letter == "\n"][2::7]
    for end in ends:
        lock.write_text(whole[:end])
        with contextlib.suppress(TemperError):
            dvc._plan()
            silent += 1
        caplog.clear()
        assert dvc.plan().changes == {} and lock.read_text() == whole
        assert "dvc.lock was cut off" in caplog.text
    assert silent > 3
    record_property("times", len(ends))
    lock.write_text(whole[:80] + "<<<<<<< ours\n" + whole[80:])
    with pytest.raises(TemperError, match=r"dvc\.lock"):
        dvc.plan()


@pytest.mark.hardening("A1", "DVC is killed while it writes who holds which path")
@pytest.mark.parametrize("left", ["", '{"write": {"', '{"read": []}'])
def test_a_list_of_holders_that_was_cut_off_stops_nothing(
    workspace: Any, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    workspace.dvc("repro")
    monkeypatch.chdir(workspace.path)
    (workspace.path / ".dvc/tmp/rwlock").write_text(left)
    with pytest.raises(TemperError):
        dvc._plan()
    assert dvc.plan().changes == {}


def test_a_broken_dag_is_told(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.write("dvc.yaml", "stages: [")
    monkeypatch.chdir(workspace.path)
    with pytest.raises(TemperError, match=r"DVC cannot plan: .*dvc\.yaml"):
        dvc.plan()


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
