"""The Prefect flow: every stale stage a task, independent ones at once, descendants of a failure not at all."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.dvc import BUSY_TRIES, BUSY_WAIT_S, Busy
from flows.outcome import failed_cells
from flows.runner import Runner

RUNNER: ContextVar[Runner] = ContextVar("runner")  # a flow's parameters are kept as JSON; a runner is not


def _only_busy(task: Any, run: Any, state: State[Any]) -> bool:
    return isinstance(state.data, Busy) or isinstance(getattr(state.data, "exception", None), Busy)


@task(
    name="stage",
    retries=BUSY_TRIES - 1,
    retry_delay_seconds=BUSY_WAIT_S,
    retry_condition_fn=_only_busy,
    persist_result=False,
)
def stage(name: str) -> str:
    return RUNNER.get().stage(name)


@flow(name="temper", flow_run_name="{run}", validate_parameters=False, persist_result=False)
def retrain(run: str, stages: dict[str, list[str]]) -> State[Any]:
    """Run `stages` ({name: parents}, in order) and leave a table of what became of each."""
    futures: dict[str, Any] = {}
    try:
        for name, parents in stages.items():
            after = [futures[parent] for parent in parents]
            futures[name] = stage.with_options(task_run_name=name).submit(name, wait_for=after, return_state=False)
        for future in futures.values():
            future.wait()
    except BaseException:  # Ctrl-C, SIGTERM, cancelled: the pool would wait for its stages
        RUNNER.get().cancel()
        raise
    states = {name: future.state for name, future in futures.items()}
    table = [{"stage": name, "state": state.name} for name, state in states.items()]
    create_table_artifact(table, key="temper-stages", description=f"Pipeline run {run}")
    red = [f"{name}: {state.name}" for name, state in states.items() if not state.is_completed()]
    red += [f"{cell}: failed" for cell in failed_cells()]
    if red:
        return Failed(message="; ".join(red))
    return Completed(message=f"{len(stages)} stages")
