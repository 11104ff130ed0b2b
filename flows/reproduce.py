"""Make a registered version again and say what differs: a clean clone, its data by hash, its stages computed anew.

Stages run by their plain commands, so neither DVC's run cache nor its checkout can bring back an old result.
"""

from __future__ import annotations

import json
import shutil
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import package, registry
from components.errors import DataError, TemperError
from flows import clone, dvc, rebuilt
from flows.drive import FIRST, Watch, stoppable
from flows.runner import Runner, StageFailed

DIFFERS = 5  # exit code
WORK = Path("work")


@dataclass
class Result:
    """What came of it. `stages`: {stage: "equal", or which of its outputs differ and by how much}."""

    commit: str
    folder: Path
    equal: bool = False  # what ships has the same bytes
    digest: str = ""
    stages: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)  # of what ships
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 0 if self.equal else DIFFERS


def reproduce(version: registry.Version, name: str, watch: Watch, timeout_s: float, keep: bool) -> Result:
    """Make `version` of the model `name` again from the workspace in the current folder.

    The clone is removed if it is bit-equal and not to be kept. Raises TemperError, with the remedy, for a version that
    cannot be made again, StageFailed if a stage fails, Stopped when told to stop: the next call then goes on.
    """
    workspace = Path.cwd()
    with clone.made(version, name, workspace) as made, stoppable():
        result = Result(version.tags["git.commit"], made.folder)
        with package.verified(name, version.version) as original:  # before work starts
            with chdir(made.folder):
                ran = _stages(made, version, workspace, watch, timeout_s)
                for stage in ran:
                    result.stages[stage] = rebuilt.stage(stage, made, workspace)
                    if stage == FIRST and "ingest" not in ran:
                        result.stages["ingest"] = "not run: its data came by their hash"
                result.digest, result.differences = rebuilt.build(version, original.folder / "artifacts")
                result.equal = result.digest == version.digest
            result.notes = [*made.notes, *rebuilt.elsewhere(made, version, workspace)]
        made.over()
        if result.equal and not keep:
            shutil.rmtree(made.top, ignore_errors=True)
        return result


def _stages(made: clone.Clone, version: registry.Version, workspace: Path, watch: Watch, timeout_s: float) -> list[str]:
    """Compute, in the clone, what the version's cell needs; returns the stages in order."""
    variant, target = version.tags["variant"], version.tags["target"]
    params = _params()
    clone.link_inputs(made, params)
    done = made.done()
    by_hash = _has_data(made) if done else clone.bring_data(made, workspace, params)
    plan = dvc.patiently(dvc.plan)
    order = _needed(plan, f"build@{variant}", "ingest" if by_hash else "")
    watch.planned(f"reproduce-{version.version}", order, {stage: plan.parents[stage] for stage in order})
    here = {
        "TEMPER_ROOT": str(made.folder),
        "TEMPER_DRY_RUN": "1",
        "TEMPER_COMMIT": version.tags["git.commit"],
        "MLFLOW_TRACKING_URI": f"sqlite:///{made.folder / 'mlruns/mlflow.db'}",  # neither the user's, nor a server
        "PYTHONPATH": str(made.folder),
    }
    named = [*order, f"engine@{variant}"]
    runner = Runner(made.top.name, 1, 1, watch.stage, timeout_s, {stage: lambda: here for stage in named})
    try:
        for stage in order:
            if stage in done:
                watch.stage(stage, "unchanged", 0.0, "made before it was stopped")
            elif stage == FIRST:
                _observe(runner, plan.commands[stage], made, by_hash)
            else:
                runner.stage(stage, plan.commands[stage])
            if stage not in done:
                made.mark(stage)
        if not (WORK / "builds" / variant / target / "build.json").exists():  # it needs a device
            order.append(f"engine@{variant}")
            runner.stage(order[-1], plan.commands[order[-1]])
    finally:
        runner.cancel()
    _source_changed(made, by_hash)
    return order


def _params() -> dict[str, Any]:
    """As the commit has it; read as plain data, since this checkout's rules may be newer than it."""
    from components import params

    read = params.read(Path("params.yaml"))
    return read if isinstance(read, dict) else {}


def _has_data(made: clone.Clone) -> bool:
    return "ingest" not in made.done() and Path(clone.RAW).is_dir()


def _needed(plan: dvc.Plan, last: str, apart: str) -> list[str]:
    """`last` and all that it is made from, in order, without `apart`."""
    if last not in plan.parents:
        raise TemperError(f"the commit's dvc.yaml has no stage {last}: the version was not made by this pipeline")
    needed, todo = set(), [last]
    while todo:
        stage = todo.pop()
        if stage not in needed:
            needed.add(stage)
            todo += plan.parents[stage]
    return [stage for stage in plan.parents if stage in needed and stage != apart]


def _observe(runner: Runner, command: str, made: clone.Clone, by_hash: bool) -> None:
    """A source that is gone is no obstacle where the data came by hash: they stand in for it."""
    try:
        runner.stage(FIRST, command)
    except StageFailed as error:
        if error.exit_code != DataError.exit_code:
            raise
        if not by_hash:
            told = "; ".join([*made.notes, error.reason.splitlines()[0]])
            raise TemperError(f"the version's data are gone: {told}; bring one of these back") from None
        made.notes.append(f"the source cannot be read any more: {error.reason.splitlines()[0]}")
        _stand_in()
        runner.failed.clear()
        runner.stage(FIRST, command)


def _stand_in() -> None:
    from ruamel.yaml import YAML

    yaml, path = YAML(), Path("params.yaml")
    raw = yaml.load(path.read_text("utf-8"))
    raw["source"] = {"kind": "parquet", "path": f"{clone.RAW}/data.parquet"}
    if corpus := (raw.get("prepare") or {}).get("corpus"):
        corpus["source"] = {"kind": "parquet", "path": f"{clone.RAW}/corpus.parquet"}
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(raw, file)


def _source_changed(made: clone.Clone, by_hash: bool) -> None:
    manifest, observed = Path(clone.RAW, "manifest.json"), WORK / "observed/source.json"
    if not by_hash or str((_params().get("source") or {}).get("path")).startswith(clone.RAW):  # a stand-in
        return
    then, now = json.loads(manifest.read_text("utf-8"))["source"], json.loads(observed.read_text("utf-8"))
    changed = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key) and key != "path"]
    if changed:
        told = ", ".join(f"{key} {_short(then.get(key))} then, {_short(now.get(key))} now" for key in changed)
        made.notes.append(f"the source has changed since ({told}); the version's data were taken by their hash")


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text[:60]
