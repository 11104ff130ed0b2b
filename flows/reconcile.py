"""Closing what a kill left open: flow runs and tracked runs whose process is gone. Those of other hosts stay."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components import record
from flows.snapshot import STANDING

FLOWS = ["retrain", "temper"]
MOST = 200  # the server gives no more at once
UNCLAIMED_S = 600.0  # a run that no process has put its name on after this long has none


def flow_runs() -> list[str]:
    """Mark as crashed what is open on the Prefect server though its process is gone; returns their names."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Crashed

    unfinished = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    closed = []
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=FLOWS)),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished))),
            sort=FlowRunSort.START_TIME_DESC,
            limit=MOST,
        )
        for run in found:
            if why := _dead(run):
                _close_tasks(client, run, why)
                client.set_flow_run_state(run.id, Crashed(message=why), force=True)
                closed.append(run.name)
    return closed


def _dead(run: Any) -> str:
    """Why a flow run cannot go on; empty if it may, or if nobody here can say."""
    from flows.alone import BOOT, HOST, PID, START

    labels = run.labels
    if PID not in labels:
        since = run.state.timestamp if run.state else run.created
        waited = (datetime.now(UTC) - since).total_seconds()
        return f"no process took it in {waited:.0f} s" if waited > UNCLAIMED_S else ""
    if labels[HOST] != socket.gethostname():
        return ""
    if labels[BOOT] == record.boot_id() and record.process_start(int(labels[PID])) == labels[START]:
        return ""
    return f"its process (pid {labels[PID]} on {labels[HOST]}) was killed; found when the next one started"


def _close_tasks(client: Any, run: Any, why: str) -> None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import TaskRunSort
    from prefect.states import Crashed

    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        sort=TaskRunSort.END_TIME_DESC,
        limit=MOST,
    )
    for task in tasks:
        if task.state and not task.state.is_final():
            client.set_task_run_state(task.id, Crashed(message=why), force=True)


def tracked_runs(root: Path) -> None:
    """Close in MLflow what dead pipeline runs left open: of the checkout, and of the worktrees of its presets."""
    from components import tracking

    for folder in [root, *sorted(root.joinpath(STANDING).glob("*/"))]:
        tracking.drain(folder / record.ROOT)
