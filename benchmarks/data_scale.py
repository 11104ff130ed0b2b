"""Seconds and peak memory of ingest, validate and prepare at several sizes: `python benchmarks/data_scale.py`.

Makes csv files of real-valued 2x3 images (a few bad rows and copies among them), runs the real stages, each in a
process of its own, and writes results/data_scale.json and .md. Peak memory: VmHWM, the most that was resident.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
STAGES = {
    "ingest": ["observed=work/observed/source.json", "out=work/data/raw"],
    "validate": ["raw=work/data/raw", "out=work/data/valid"],
    "prepare": ["valid=work/data/valid", "out=work/data/prepared"],
}
# The child's own peak; a stage starts no process that computes.
CHILD = (
    "import re, sys; from components.stage import main; code = main(sys.argv[1:]); "
    "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(code)"
)
CHUNK = 100_000
CLASSES = 10
MB = 1024  # VmHWM is in KiB


def write_csv(path: Path, rows: int) -> None:
    """pixel_0 .. pixel_5 with six decimals, and label; of 1,000 rows one has no pixel, one no label, one is a copy."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join([*(f"pixel_{i}" for i in range(6)), "label"]) + "\n")
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            lines = [
                f"{a:.6f},{b:.6f},{c:.6f},{d:.6f},{e:.6f},{f:.6f},{label}"
                for (a, b, c, d, e, f), label in zip(
                    rng.uniform(0, 255, (count, 6)).tolist(), rng.integers(0, CLASSES, count).tolist(), strict=True
                )
            ]
            for i in range(0, count - 500, 1000):
                lines[i + 10] = "," + lines[i + 10].partition(",")[2]
                lines[i + 20] = lines[i + 20].rpartition(",")[0] + ",none"
                lines[i + 40] = lines[i + 30]
            file.write("\n".join(lines) + "\n")


def write_workspace(folder: Path) -> None:
    """The repository's params.yaml with another source and task, and what observe would leave."""
    from ruamel.yaml import YAML

    from components.params import Csv
    from components.sources import csv

    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text("utf-8"))
    params["source"] = {"kind": "csv", "path": "data.csv", "delimiter": ","}
    params["task"] |= {
        "columns": {"image": "pixel_*", "label": "label", "key": None},
        "shape": [2, 3],
        "range": [0.0, 255.0],
        "classes": [str(i) for i in range(CLASSES)],
    }
    params["init"]["model"] = {"family": "mlp", "hidden": [8], "dropout": 0.0}
    for rule, bounds in zip(params["validate"]["expectations"], ((100.0, 155.0), (1.0, 255.0)), strict=True):
        rule["arguments"] |= dict(zip(("min_value", "max_value"), bounds, strict=True))
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    os.chdir(folder)
    source = Csv(kind="csv", path="data.csv", delimiter=",")
    Path("work/observed").mkdir(parents=True)
    Path("work/observed/source.json").write_text(json.dumps(csv.observe(source, None)[0]), "utf-8")


def processor_seconds() -> float:
    """Of the processes that have ended so far."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def measure(rows: int) -> list[dict[str, Any]]:
    """One line a stage: rows, stage, seconds, cpu_seconds, peak_mb."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_csv(folder / "data.csv", rows)
        write_workspace(folder)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for stage, words in STAGES.items():
            started, used = time.monotonic(), processor_seconds()
            done = subprocess.run(
                [sys.executable, "-c", CHILD, stage, *words, f"metrics=work/metrics/{stage}.json"],
                env=environment,
                cwd=folder,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            line = {"rows": rows, "stage": stage, "seconds": time.monotonic() - started}
            found.append({**line, "cpu_seconds": processor_seconds() - used, "peak_mb": int(done.stdout) / MB})
            print(found[-1], file=sys.stderr, flush=True)
        metrics = json.loads((folder / "work/metrics/validate.json").read_text("utf-8"))
        if not metrics["quarantined"]:
            raise RuntimeError("the bad rows were not found")
        os.chdir(ROOT)
    return found


def table(result: dict[str, Any]) -> str:
    """Growth is told in processor seconds, which neighbours on the machine disturb less than the clock."""
    head = [
        "rows",
        "stage",
        "s",
        "CPU s",
        "rows/s",
        "peak MB",
        "CPU s per row / smallest size's",
        "CPU us per added row",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    earlier: dict[str, list[tuple[int, float]]] = {}
    for line in result["lines"]:
        rows, cpu = line["rows"], line["cpu_seconds"]
        before = earlier.setdefault(line["stage"], [])
        before.append((rows, cpu))
        ratio = cpu / rows / (before[0][1] / before[0][0])
        added = f"{(cpu - before[-2][1]) / (rows - before[-2][0]) * 1e6:.1f}" if len(before) > 1 else ""
        cells = [f"{rows:,}", line["stage"], f"{line['seconds']:.1f}", f"{cpu:.1f}", f"{rows / line['seconds']:,.0f}"]
        lines.append("| " + " | ".join([*cells, f"{line['peak_mb']:.0f}", f"{ratio:.2f}", added]) + " |")
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    host = result["host"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        "# ingest, validate and prepare at scale\n\n"
        f"{result['date']}, {host['machine']}, {host['cores']} cores, load average {result['load']}; {versions}. "
        "One process a stage, start and imports included; where the load is above the cores, go by the CPU seconds. "
        f"A ratio below 1: the start weighs less. Made by benchmarks/data_scale.py.\n\n{table(result)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for data_scale.json and .md")
    arguments = parser.parse_args()
    out = arguments.out.resolve()

    from components.host import describe

    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "host": describe(),
        "versions": {name: version(name) for name in ("pyarrow", "numpy", "pandas", "great_expectations")},
        "lines": [line for rows in sorted(arguments.rows) for line in measure(rows)],
    }
    result["load"] = round(os.getloadavg()[2], 1)  # of the last 15 minutes
    out.mkdir(parents=True, exist_ok=True)
    (out / "data_scale.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    (out / "data_scale.md").write_text(page(result), "utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
