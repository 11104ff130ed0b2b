"""Which open runs are dead: by host, boot, pid and the pid's start; never those of another host."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from components import backlog, record
from flows.alone import BOOT, HOST, PID, START
from flows.reconcile import _dead

HERE = {
    HOST: socket.gethostname(),
    BOOT: record.boot_id(),
    PID: os.getpid(),
    START: record.process_start(os.getpid()),
}


def run(labels: dict[str, Any], minutes: float = 0) -> Any:
    then = datetime.now(UTC) - timedelta(minutes=minutes)
    return SimpleNamespace(labels=labels, state=SimpleNamespace(timestamp=then), created=then)


@pytest.mark.parametrize(
    ("changed", "dead"),
    [
        ({}, False),
        ({PID: 2**22 + 1}, True),  # no such process
        ({START: 1}, True),  # another process has that pid now
        ({BOOT: "another"}, True),  # the machine was started again
        ({HOST: "elsewhere", PID: 2**22 + 1, BOOT: "another"}, False),
    ],
)
@pytest.mark.hardening("A4", "pid gone, reused, of an earlier boot, of another host")
def test_a_flow_run_is_dead_if_its_process_is_gone_from_this_host(changed: dict[str, Any], dead: bool) -> None:
    assert bool(_dead(run(HERE | changed, minutes=60))) is dead


def test_a_run_that_no_process_took_is_dead_after_a_while() -> None:
    assert _dead(run({}, minutes=1)) == ""
    assert "no process took it" in _dead(run({}, minutes=11))


@pytest.mark.parametrize(("changed", "alive"), [({}, True), ({"boot": "another"}, False), ({"start": 1}, False)])
@pytest.mark.hardening("A4", "the same of tracked runs")
def test_a_tracked_run_is_told_by_the_same(changed: dict[str, Any], alive: bool) -> None:
    first = {"host": HERE[HOST], "boot": HERE[BOOT], "pid": HERE[PID], "start": HERE[START]}
    assert backlog.stage_alive(first | changed) is alive
    assert backlog.stage_alive({key: value for key, value in first.items() if key != "boot"})  # of an older record
