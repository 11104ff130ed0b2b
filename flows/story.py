"""What a flow run's page tells: its log, the matrix, the decision, where MLflow shows the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from components import registry, tracking
from components.report import markdown, words
from flows.outcome import Outcome
from flows.runner import State as StageState

MATRIX, DECISION = Path("work/matrix/matrix.json"), Path("work/decision/decision.json")
MLFLOW = "TEMPER_MLFLOW"  # in the environment: where `temper up` shows the tracked runs


class Told:
    """Watches a run (flows.drive.Watch) and logs it; calls the flow run as the pipeline run is called."""

    def __init__(self) -> None:
        self._log = get_run_logger()

    def planned(self, run: str, order: list[str], stale: dict[str, list[str]]) -> None:
        context = FlowRunContext.get()
        if context and context.flow_run:
            with get_client(sync_client=True) as client:
                client.update_flow_run(context.flow_run.id, name=run)
        self._log.info("%s of %s stages to run: %s", len(stale), len(order), ", ".join(stale))

    def stage(self, name: str, state: StageState, seconds: float, message: str) -> None:
        took = f" ({seconds:.1f} s)" if state != "running" else ""
        said = f": {message}" if message and state != "running" else ""
        (self._log.error if state == "failed" else self._log.info)("%s: %s%s%s", name, state, took, said)

    def note(self, text: str) -> None:
        self._log.info("%s", text)


def tell(name: str, outcome: Outcome, folder: Path, dry_run: bool) -> State[Any]:
    """Leave the artifacts of a run that was driven in `folder`, and its final state: green, or red with the reason."""
    decided = not {"compare", "decide"} & {*outcome.skipped, *outcome.failed}
    matrix, decision = _read(folder / MATRIX), _read(folder / DECISION)
    key = name.replace("_", "-").replace(".", "-")
    if matrix and decision and decided:
        create_table_artifact(_table(matrix, decision), key=f"{key}-matrix", description=words.reading(matrix))
        create_markdown_artifact(
            _decision(matrix, decision, outcome), key=f"{key}-decision", description=f"Pipeline run {outcome.run}"
        )
    if link := _mlflow(outcome.run):
        create_link_artifact(link, link_text=f"{outcome.run} in MLflow", key=f"{key}-mlflow")
    if outcome.exit_code:
        return Failed(message=_red(outcome))
    reason = decision["reason"] if matrix and decision else ""
    if not {name for name, (how, _) in outcome.done.items() if how != "unchanged"} - {"observe", "promote"}:
        reason = f"nothing to do: all {len(outcome.order)} stages are up to date"
    promoted = "dry run: nothing was promoted" if dry_run else outcome.promotion
    return Completed(message="; ".join(filter(None, (promoted, reason))))


def _red(outcome: Outcome) -> str:
    lines = [f"{stage}: {failure.reason}" for stage, failure in outcome.failed.items()]
    lines += [f"{cell}: failed" for cell in outcome.failed_cells]
    lines += [f"not in MLflow: {outcome.untracked}"] if outcome.untracked else []
    lines += [f"not run, because of that: {', '.join(outcome.skipped)}"] if outcome.skipped else []
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _table(matrix: Mapping[str, Any], decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    size = str(decision["policy"]["batch_size"])
    for row in matrix["cells"]:
        judged = decision["cells"].get(row["cell"], {})
        speedup = row["speedup"].get(size, [None])[0]
        chosen = (decision["winner"] or {}).get("cell") == row["cell"]
        rows.append(
            {
                "cell": row["cell"],
                "may be promoted": "chosen" if chosen else "yes" if judged.get("feasible") else "no",
                "accuracy": row["accuracy"] and round(row["accuracy"], 4),
                "verdict": row["verdict"],
                f"ms at {size}": row["latency_ms"].get(size) and round(row["latency_ms"][size], 4),
                "times as fast": speedup and round(speedup, 2),
                "MB": row["size_mb"] and round(row["size_mb"], 3),
                "why not": row["reason"] or "; ".join(judged.get("misses", [])),
            }
        )
    return rows


def _decision(matrix: Mapping[str, Any], decision: Mapping[str, Any], outcome: Outcome) -> str:
    lines = [f"# {decision['action']}", "", markdown.safe(decision["reason"]), ""]
    if outcome.promotion:
        lines += [f"**promote**: {markdown.safe(outcome.promotion)}", ""]
    for cell, judged in decision["cells"].items():
        lines.append(f"- `{cell}`: {'may be promoted' if judged['feasible'] else 'may not be promoted'}")
        lines += [f"    - {markdown.safe(reason)}" for reason in judged["reasons"]]
    return "\n".join([*lines, "", markdown.page(matrix)])


def _mlflow(run: str) -> str | None:
    """The page of the tracked run, where a server shows it."""
    where = os.environ.get(MLFLOW) or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not where.startswith("http"):
        return None
    found = registry.tracked(run) if registry.database() else tracking.tracked(run)
    return f"{where.rstrip('/')}/#/experiments/{found[0]}/runs/{found[1]}" if found else None
