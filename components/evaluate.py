"""Answers of every build of a variant on the whole test split, kept row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components import answers, cell, runtime
from components.cell import Record
from components.data import Spec, read_rows
from components.errors import Refused
from components.hashing import fingerprint_cell
from components.params import Target
from components.tasks import TASKS

# What a cell is made with, besides its task and runtime: all that this file imports, as a contract test holds.
CODE = (
    "components/answers.py",
    "components/cell.py",
    "components/classification.py",
    "components/data.py",
    "components/evaluate.py",
    "components/runtime.py",
    "components/session.py",
)


def run(
    targets: Mapping[str, Target],
    threads: int,
    data: Path,
    builds: Path,
    engines: Path,
    host: Path,
    out: Path,
    previous: Path | None,
) -> dict[str, Any]:
    """Metrics of every cell of the variant; a cell without a build keeps its build's status and reason."""
    spec = Spec.read(data)
    rows = read_rows(data, "test", spec)
    machine = json.loads(host.read_text("utf-8"))

    def folder(target: str) -> Path:
        return runtime.folder_of(targets[target], target, builds, engines)

    def inputs(target: str) -> str:
        told = {field: machine[field] for field in runtime.runtime_of(targets[target]).HOST}
        code = [*CODE, f"components/tasks/{spec.task}.py", runtime.code_of(targets[target])[1]]
        return fingerprint_cell(code, folder(target), data / "test.parquet", threads, told)

    def work(target: str, out: Path) -> dict[str, Any]:
        answered = answers.ask(runtime.open_build(folder(target), threads), rows)
        if broken := int((~np.isfinite(answered.logits).all(1)).sum()):
            raise Refused(f"{broken} of {len(rows)} test rows have NaN or infinite logits")
        written = answers.write(answered, out, data / "test.parquet")
        return {**TASKS[spec.task].metrics(answered.logits, rows.labels), **written}

    built = {target: Record.read(folder(target)) for target in targets}
    for target, record in built.items():
        if record.status != "ok":
            Record(record.status, record.reason).write(out / target)
    answerable = [target for target, record in built.items() if record.status == "ok"]
    # Equal inputs do not make answers that were changed since: these are asked again.
    changed = [target for target in answerable if previous and not kept(previous / target)]
    sound = [target for target in answerable if target not in changed]
    return cell.numbers(
        {**cell.each(sound, work, inputs, out, previous), **cell.each(changed, work, inputs, out, None)}
    )


def kept(folder: Path) -> bool:
    """Whether a cell's earlier answers are as they were written; one that has none is no less sound."""
    if not (folder / "record.json").exists():
        return True
    record = Record.read(folder)
    return record.status != "ok" or answers.whole(folder, record.figures.get("sha256"))
