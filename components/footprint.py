"""Load time and memory of a build, each in fresh processes: nothing that ran before may have warmed them up.

`python -m components.footprint BUILD THREADS INPUTS.npz SIZE...` prints those of this process as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components import runtime

Inputs = Mapping[str, np.ndarray]


def memory_mb(field: str) -> float:
    """VmRSS or VmHWM (its peak) of this process. Not ru_maxrss: a child inherits its parent's."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000
    raise OSError(f"/proc/self/status has no {field}")


def footprint(build: Path, threads: int, inputs: Inputs, sizes: list[int]) -> dict[str, float]:
    """Load time, with that of the runtime's library, and the peak of memory over loading and a call at each size.

    Only true in a fresh process.
    """
    before = memory_mb("VmRSS")
    started = time.perf_counter()
    session = runtime.open_build(build, threads)
    load_ms = (time.perf_counter() - started) * 1000
    for size in sizes:
        session.run({name: values[:size] for name, values in inputs.items()})
    return {"load_ms": load_ms, "peak_memory_mb": max(memory_mb("VmHWM") - before, 0.0)}


def fresh(build: Path, threads: int, inputs: Inputs, sizes: list[int], loads: int) -> dict[str, Any]:
    """What cells.json says of a build: status, reason and, if it works, its footprint, else what it last said.

    The median of `loads` processes; of the load time the least and the greatest too.
    """
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "inputs.npz"
        np.savez(path, **inputs)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "components.footprint", str(build), str(threads), str(path), *map(str, sizes)]
        for _ in range(loads):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                reason = f"in a process of its own: {last[:300]}"
                return {"status": "failed", "reason": reason, "detail": done.stderr[-10_000:]}
            found.append(json.loads(done.stdout.splitlines()[-1]))
    load_ms = [one["load_ms"] for one in found]
    return {
        "status": "ok",
        "reason": "",
        "load_ms": statistics.median(load_ms),
        "load_low_ms": min(load_ms),
        "load_high_ms": max(load_ms),
        "loads": loads,
        "peak_memory_mb": statistics.median(one["peak_memory_mb"] for one in found),
    }


if __name__ == "__main__":
    build_folder, thread_count, inputs_path, *batch_sizes = sys.argv[1:]
    with np.load(inputs_path, allow_pickle=False) as arrays:
        told = footprint(Path(build_folder), int(thread_count), dict(arrays), [int(size) for size in batch_sizes])
    sys.stdout.write(json.dumps(told) + "\n")
