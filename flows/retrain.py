"""The Prefect flows: every stale stage a task, independent ones at once, descendants of a failure not at all.

`retrain` is what schedules and Prefect's pages start (prefect.yaml); `by_hand` is the flow of `temper run`.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff
from pydantic import AfterValidator, Field

from components.errors import TemperError
from flows import alone, schedules, story
from flows.dvc import BUSY_TRIES, BUSY_WAIT_S, AtWork, Busy
from flows.outcome import failed_cells
from flows.runner import Runner
from flows.workplace import enter, root

RUNNER: ContextVar[Runner] = ContextVar("runner")  # a flow's parameters are kept as JSON; a runner is not


def _known(name: str) -> str:
    if name not in (there := schedules.names(root())):
        raise ValueError(f"there is no such preset; there are: {', '.join(there)}")
    return name


Preset = Annotated[
    str,
    AfterValidator(_known),
    Field(description="What is retrained", json_schema_extra={"enum": list(schedules.names(root()))}),
]
DryRun = Annotated[bool, Field(description="Do all but promote")]
StageTimeout = Annotated[float, Field(ge=1, description="A stage that takes more seconds is ended, and failed")]


def _only_busy(task: Any, run: Any, state: State[Any]) -> bool:
    """DVC's locks are transient; what a stage ends with is not, and would fail again."""
    return isinstance(state.data, Busy) or isinstance(getattr(state.data, "exception", None), Busy)


@task(
    retries=BUSY_TRIES - 1,
    retry_delay_seconds=exponential_backoff(BUSY_WAIT_S / 4),  # of 0.5, 1, 2, 4, ... seconds
    retry_jitter_factor=0.5,
    retry_condition_fn=_only_busy,
    persist_result=False,
)
def stage(name: str) -> str:
    return RUNNER.get().stage(name)


def run_stages(runner: Runner, run: str, stages: dict[str, list[str]]) -> None:
    """Run `stages` ({name: parents}, in order) as tasks of this flow run, or of one made for them."""
    token = RUNNER.set(runner)
    try:
        if FlowRunContext.get():
            _tasks(run, stages)
        else:
            by_hand(run, stages, return_state=True)
    finally:
        RUNNER.reset(token)


def _tasks(run: str, stages: dict[str, list[str]]) -> list[str]:
    """Returns what went wrong, a line each, and leaves a table of what became of each stage."""
    futures: dict[str, Any] = {}
    try:
        for name, parents in stages.items():
            after = [futures[parent] for parent in parents]
            named = stage.with_options(name=name.partition("@")[0], task_run_name=name)
            futures[name] = named.submit(name, wait_for=after, return_state=False)
        for future in futures.values():
            future.wait()
    except BaseException:  # Ctrl-C, SIGTERM, cancelled: the pool would wait for its stages
        RUNNER.get().cancel()
        raise
    states = {name: future.state for name, future in futures.items()}
    table = [{"stage": name, "state": state.name} for name, state in states.items()]
    create_table_artifact(table, key="temper-stages", description=f"Pipeline run {run}")
    return [f"{name}: {state.name}" for name, state in states.items() if not state.is_completed()]


@flow(name="temper", flow_run_name="{run}", validate_parameters=False, persist_result=False)
def by_hand(run: str, stages: dict[str, list[str]]) -> State[Any]:
    """Stages that somebody asked for with `temper run`."""
    alone.record_process()
    red = _tasks(run, stages) + [f"{cell}: failed" for cell in failed_cells()]
    return Failed(message="; ".join(red)) if red else Completed(message=f"{len(stages)} stages")


@flow(name="retrain", persist_result=False)
def retrain(preset: Preset, dry_run: DryRun = False, stage_timeout_s: StageTimeout = 43_200.0) -> State[Any]:
    """Retrain what is stale, prove it, promote what the policy chooses; in a worktree of its own for a preset."""
    import os

    from components import params
    from flows.drive import drive

    os.chdir(root())
    alone.record_process()
    if covered := alone.covered():
        return alone.skipped(covered)
    try:
        enter(None if preset == schedules.HERE else preset)
        checked = params.load()
        limits = checked.limits.model_dump() if checked.limits else None
        outcome = drive(story.Told(), checked.threads, stage_timeout_s, not dry_run, limits)
    except AtWork as busy:
        return alone.skipped(str(busy))
    except TemperError as error:
        return Failed(message=str(error))
    return story.tell(preset, outcome, Path.cwd(), dry_run)
