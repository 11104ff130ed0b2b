"""Where the seconds of a short stage go: `python benchmarks/stage_seconds.py`.

Each stage that needs no training is run again by `dvc repro -f -s`, in the small workspace of the tests after one whole
run; beside it its command alone, its imports alone (python -X importtime), and a bare Python.
"""

from __future__ import annotations

import argparse
import re
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

from tests.workspace import BIN, Workspace

STAGES = ("observe", "ingest", "validate", "prepare", "init", "engine@base", "champion", "compare", "decide")
IMPORT = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)")
HEAVY = {"torch", "transformers", "mlflow", "great_expectations", "pandas", "pyarrow", "onnx", "onnxruntime", "scipy",
         "sklearn", "matplotlib", "peft", "datasets", "kornia", "prefect", "dvc"}  # fmt: skip


def timed(workspace: Workspace, words: list[str], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        started = time.monotonic()
        workspace(*words)
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def imports(text: str) -> tuple[float, str]:
    """(seconds of all imports, the heavy libraries among them with theirs, each without those inside another)."""
    total, heavy = 0.0, {}
    for _, cumulative, indent, module in IMPORT.findall(text):
        if not indent.strip() and len(indent) <= 1:
            total += int(cumulative) / 1e6
        if module in HEAVY:
            heavy[module] = int(cumulative) / 1e6
    return total, ", ".join(f"{m} {s:.1f}" for m, s in sorted(heavy.items(), key=lambda item: -item[1]) if s >= 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch) / "w")
        workspace(str(BIN / "dvc"), "repro")
        resolved: dict[str, Any] = workspace.lock()
        bare = timed(workspace, [str(BIN / "python"), "-c", "pass"], repeats)
        nothing = timed(workspace, [str(BIN / "dvc"), "repro", "-s", "decide"], repeats)
        lines = []
        for name in STAGES:
            command = resolved[name]["cmd"].replace("python", str(BIN / "python"), 1).split()
            whole = timed(workspace, [str(BIN / "dvc"), "repro", "-f", "-s", name], repeats)
            alone = timed(workspace, command, repeats)
            told = workspace(command[0], "-X", "importtime", *command[1:])
            importing, libraries = imports(told)
            lines.append(
                {
                    "stage": name,
                    "with dvc s": whole,
                    "alone s": alone,
                    "python s": bare,
                    "imports s": importing,
                    "rest (work, params, hashes) s": max(alone - bare - importing, 0.0),
                    "dvc itself s": whole - alone,
                    "heavy imports s": libraries or "none",
                }
            )
            print(lines[-1], file=sys.stderr, flush=True)
    notes = [f"dvc repro -s of an unchanged stage takes {nothing:.2f} s: DVC's own start", f"median of {repeats} runs"]
    notes.append("imports are timed with -X importtime on, which slows them a little")
    print(results.write("stage_seconds", "Seconds of a short stage by cause", lines, notes))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
