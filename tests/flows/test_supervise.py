"""The supervised group, with light processes for parts: real signals, real orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.errors import TemperError
from flows import orphans, supervise
from flows.supervise import Part, Supervisor

ROOT = Path(__file__).resolve().parents[2]
TOKEN = f"test-{os.getpid()}"
# Starts a process in a session of its own, as servers do, says so, and waits.
PARENT = """import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(300)"""
GROUP = """import signal, sys, threading
from pathlib import Path
from tests.flows.test_supervise import part
from flows.supervise import Supervisor
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
group = Supervisor(sys.argv[1], Path("logs"), print, stop)
group.start(part("one"), part("two"))
print("up", flush=True)
group.watch()
group.stop()
"""


def part(name: str, script: str = PARENT) -> Part:
    return Part(name, [sys.executable, "-c", script], dict(os.environ), lambda log: "child" in log.read_text())


def until(true: object, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.05)
    return bool(true())  # type: ignore[operator]


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def supervisor(tmp_path: Path, stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Supervisor(TOKEN, tmp_path / "logs", lambda text: (tmp_path / "said").write_text(text), stop)


@pytest.mark.hardening("A3", "kill -9 of a server of `temper up`")
def test_a_killed_part_takes_its_children_along_and_is_started_again(
    supervisor: Supervisor, stop: threading.Event, tmp_path: Path
) -> None:
    supervisor.start(part("one"))
    first = supervisor.pids()["one"]
    before = {process.pid for process in orphans.marked(TOKEN, "one")}
    assert len(before) == 2

    def kill_then_stop() -> None:
        os.kill(first, signal.SIGKILL)
        assert until(lambda: len(orphans.marked(TOKEN, "one")) == 2 and supervisor.pids()["one"] != first)
        stop.set()

    killer = threading.Thread(target=kill_then_stop)
    killer.start()
    supervisor.watch()
    killer.join()
    assert not before & {process.pid for process in orphans.marked(TOKEN)}
    assert (tmp_path / "said").read_text().startswith("one ended with code -9; started again")
    supervisor.stop()
    assert orphans.marked(TOKEN) == []


def test_a_part_that_will_not_stay_takes_the_group_down_with_its_last_lines(supervisor: Supervisor) -> None:
    fails = "import time; print('child'); time.sleep(0.5); print('no disk', flush=True); raise SystemExit(7)"
    supervisor.start(part("one", fails))
    with pytest.raises(TemperError, match=r"one ended 4 times in 300 s, last with code 7(?s:.*)no disk"):
        supervisor.watch()
    supervisor.stop()


def test_a_part_that_does_not_start_says_why(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TemperError, match=r"one ended with code 3(?s:.*)the reason"):
        supervisor.start(part("one", "print('the reason'); raise SystemExit(3)"))
    monkeypatch.setattr(supervise, "READY_S", 0.5)
    with pytest.raises(TemperError, match=r"two was not ready after 0 s"):
        supervisor.start(part("two", "import time; time.sleep(60)"))
    supervisor.stop()
    assert orphans.marked(TOKEN) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.hardening("A3", "kill -9, SIGTERM of the supervisor alone")
def test_nothing_outlives_the_supervisor(number: signal.Signals, tmp_path: Path) -> None:
    token = f"{TOKEN}-{number}"
    group = subprocess.Popen(
        [sys.executable, "-c", GROUP, token],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert group.stdout is not None
    assert group.stdout.readline() == "up\n"
    assert len(orphans.marked(token)) == 4
    group.send_signal(number)
    group.wait(15)
    assert until(lambda: orphans.marked(token) == [], 10)
