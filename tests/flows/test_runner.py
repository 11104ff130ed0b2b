"""Running stages: where, how many at once, and what stops them."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest

from flows.runner import Cancelled, Runner, What


def test_stages_run_on_this_python_without_activation(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Talkative: what DVC itself says is then far above.
    script = "import sys; print('on\\n' * 500, sys.prefix); open('work/observe', 'w').write('x')"
    workspace.write("work.py", script)
    (workspace.path / "work").mkdir()
    monkeypatch.chdir(workspace.path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said: list[tuple[str, str]] = []
    runner = Runner("test", 1, 1, lambda name, state, seconds, message: said.append((state, message)), 60)
    assert runner.stage("observe") == "ran"
    assert said == [("running", ""), ("ran", f" {sys.prefix}")]


def test_nothing_starts_after_cancel(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.path)
    runner = Runner("test", 1, 1, lambda *_: None, 60)
    runner.cancel()
    with pytest.raises(Cancelled):
        runner.stage("observe")
    assert workspace.ran() == []


@pytest.mark.parametrize("trainings", [1, 2])
def test_no_more_trainings_at_once_than_have_cores(trainings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, live, most = Runner("test", 2, trainings, lambda *_: None, 60), set(), Counter[str]()
    guard, beside = threading.Lock(), threading.Event()

    def work(name: str, _: str | None) -> tuple[What, str]:
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
