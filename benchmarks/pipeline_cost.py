"""What the pipeline costs: `temper run` and `dvc repro` against benchmarks/one_process.py, which does the same work.

At the digits size (params.yaml as it is) or with --epochs as many of the first variant alone, for minutes of training.
Each run starts from nothing in a workspace of its own; whole processes are timed, in turn, --repeats times.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import results
from ruamel.yaml import YAML

from tests.workspace import BIN, Workspace

WAYS = {
    "one process": [str(BIN / "python"), "benchmarks/one_process.py"],
    "dvc repro": [str(BIN / "dvc"), "repro"],
    "temper run": [str(BIN / "temper"), "run"],
}


def shipped(epochs: int | None) -> dict[str, Any]:
    """The sections of params.yaml that the small workspace has replaced; with `epochs` only the first variant's."""
    raw: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    found = {name: raw[name] for name in ("init", "variants", "targets", "benchmark")}
    if epochs:
        name, variant = next(iter(found["variants"].items()))
        fit = {**variant["fit"], "epochs": epochs, "patience": epochs}
        found["variants"] = {name: {**variant, "fit": fit}}
    return found


def once(way: str, sections: dict[str, Any]) -> float:
    """Seconds of the whole process, from an empty workspace."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch) / "w")
        workspace.write_params(sections)
        workspace.commit()
        workspace(str(BIN / "dvc"), "repro", "observe")  # both find the store and the machine known
        started = time.monotonic()
        workspace(*WAYS[way])
        return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, help="train the first variant alone for so many epochs")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    sections = shipped(arguments.epochs)
    taken: dict[str, list[float]] = {way: [] for way in arguments.ways}
    for _ in range(arguments.repeats):
        for way, seconds in taken.items():
            seconds.append(once(way, sections))
            print(f"{way}: {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    first = statistics.median(taken[arguments.ways[0]])
    lines = [
        {"way": way, "runs": len(s), "median s": statistics.median(s), "least s": min(s),
         f"x {arguments.ways[0]}": statistics.median(s) / first}
        for way, s in taken.items()
    ]  # fmt: skip
    work = f"{arguments.epochs} epochs of one variant" if arguments.epochs else "params.yaml as it is (digits)"
    name = "pipeline_cost" if arguments.epochs is None else "pipeline_cost_long"
    print(results.write(name, f"The pipeline against one process: {work}", lines, ["Whole processes, in turn."]))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
