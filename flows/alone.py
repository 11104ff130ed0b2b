"""Single flight: which process a flow run is, and whether another run has already done what it is due for.

A run that is due while another of its deployment runs never starts: the server cancels it (prefect.yaml,
CANCEL_NEW). Of what piled up while no worker looked the earliest runs, and the server cancels what the worker asks for
meanwhile. The matter here is what it asks for later: it finds that a run began after it was due.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from components import record

HOST, BOOT, PID, START = "temper.host", "temper.boot", "temper.pid", "temper.start"  # labels of a flow run
RAN = [StateType.RUNNING, StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLING]


def _flow_run() -> Any:
    context = FlowRunContext.get()
    return context.flow_run if context else None


def record_process() -> None:
    """Label this flow run with its process, so that `flows.reconcile` can tell whether it lives."""
    pid = os.getpid()
    labels = {HOST: socket.gethostname(), BOOT: record.boot_id(), PID: pid, START: record.process_start(pid) or 0}
    if run := _flow_run():
        with get_client(sync_client=True) as client:
            client.request("PATCH", "/flow_runs/{id}/labels", path_params={"id": run.id}, json=labels)


def covered() -> str:
    """Why this scheduled run has nothing left to do; empty if it has, or if somebody started it by hand."""
    run = _flow_run()
    if run is None or not run.auto_scheduled or run.deployment_id is None or run.expected_start_time is None:
        return ""
    with get_client(sync_client=True) as client:
        later = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                start_time=FlowRunFilterStartTime(after_=run.expected_start_time),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=RAN)),
            ),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[run.deployment_id])),
            sort=FlowRunSort.START_TIME_DESC,
            limit=20,
        )
    other = next((other for other in later if other.id != run.id and not other.parameters.get("dry_run")), None)
    if other is None:
        return ""
    return f"it was due at {run.expected_start_time:%F %T %Z}, and {other.name} began later: that run covers it"


def skipped(why: str) -> State[Any]:
    """Neither green nor red: nothing was done, and the page says why."""
    return Cancelled(name="Skipped", message=f"skipped: {why}")
