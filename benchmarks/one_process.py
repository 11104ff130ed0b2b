"""The pipeline's work as one would write it by hand: plain calls in one process, no DVC, Prefect or MLflow.

`python benchmarks/one_process.py`, in a workspace whose work/observed is there; everything goes below work/. It calls
the stages' own functions in order, so that what the pipeline takes longer is the pipeline's own cost.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))

from ruamel.yaml import YAML

from components import params, stage
from components.host import QUIET


def order(checked: params.Params) -> Iterator[tuple[str, str | None, str]]:
    """(stage, item, command) in the order of a plain run: parents before their children."""
    stages: dict[str, Any] = YAML(typ="safe").load(Path("dvc.yaml").read_text("utf-8"))["stages"]
    todo, variants = dict(checked.variants), []
    while todo:
        variants.append(next(name for name, variant in todo.items() if variant.parent not in todo))
        del todo[variants[-1]]
    for verb, body in stages.items():
        if verb in stage.ALWAYS:
            continue
        for item in variants if "foreach" in body else [None]:
            command = body.get("do", body)["cmd"].replace("${key}", item or "")
            yield verb, item, command.replace("${item.from}", checked.variants[item].parent if item else "")


def main() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    seconds: dict[str, float] = {}
    for verb, item, command in order(params.load()):
        started = time.monotonic()
        run = importlib.import_module(f"components.{verb}").run
        wanted = inspect.signature(run).parameters
        given = {name: Path(path) for name, _, path in (word.partition("=") for word in command.split() if "=" in word)}
        paths = {name: path for name, path in given.items() if name in wanted}
        if "out" in paths:
            paths["out"].mkdir(parents=True, exist_ok=True)
        values, _ = stage._arguments(run, item, paths, always=False)
        nothing: dict[str, Any] = {"previous": None, "cell": lambda *told: None, "log": lambda metrics, step: None}
        values |= {name: value for name, value in nothing.items() if name in wanted}
        run(**values, **paths)
        seconds[f"{verb}@{item}" if item else verb] = time.monotonic() - started
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
