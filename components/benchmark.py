"""Latency of all cells, interleaved round by round in one process; load time and memory, each in a fresh one.

Beside the cells stand `eager`, PyTorch running the first variant with the thread count that suits it best,
and `control`, a second session of the reference cell: an A/A comparison. What slows the machine for a while
slows all of them alike. A cell that fails, or takes the process down, does so in its fresh one, before it is
timed beside the others.

`python -m components.benchmark BUILD THREADS INPUTS.npz SIZE...` prints one cell's footprint as JSON.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from components import certificate, runtime
from components.cell import Record
from components.data import Rows, Spec, read_rows
from components.params import Benchmark, OnnxFp32, Target, Variant

Inputs = Mapping[str, np.ndarray]
Call = Callable[[Inputs], Any]


def memory_mb(field: str) -> float:
    """VmRSS or VmHWM (its peak) of this process. Not ru_maxrss: a child inherits its parent's."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000
    raise OSError(f"/proc/self/status has no {field}")


def footprint(build: Path, threads: int, inputs: Inputs, sizes: list[int]) -> dict[str, float]:
    """Load time, and the peak of memory over loading and a call at each batch size. Only true in a fresh process."""
    before = memory_mb("VmRSS")
    started = time.perf_counter()
    session = runtime.open_build(build, threads)
    load_ms = (time.perf_counter() - started) * 1000
    for size in sizes:
        session.run({name: values[:size] for name, values in inputs.items()})
    return {"load_ms": load_ms, "peak_memory_mb": max(memory_mb("VmHWM") - before, 0.0)}


def fresh_footprint(build: Path, threads: int, inputs: Inputs, sizes: list[int]) -> dict[str, Any]:
    """What cells.json says of a build: status, reason and, if it works, its footprint, else what it last said."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "inputs.npz"
        np.savez(path, **inputs)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "components.benchmark", str(build), str(threads), str(path), *map(str, sizes)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        reason = f"in a process of its own: {last[:300]}"
        return {"status": "failed", "reason": reason, "detail": done.stderr[-10_000:]}
    return {"status": "ok", "reason": "", **json.loads(done.stdout.splitlines()[-1])}


def batch(rows: Rows, size: int) -> dict[str, np.ndarray]:
    """The first `size` rows; again from the top where there are fewer."""
    return {name: values[np.arange(size) % len(rows)] for name, values in rows.inputs.items()}


def eager(model: Path, threads: int) -> list[Call]:
    """PyTorch as a user runs it, with one thread and with `threads`: small models are slower with more."""
    import torch

    from components import assemble

    loaded = assemble.load(model)

    def call(inputs: Inputs, count: int) -> np.ndarray:
        torch.set_num_threads(count)
        with torch.inference_mode():
            logits: np.ndarray = loaded.logits({name: torch.from_numpy(x) for name, x in inputs.items()}).numpy()
        return logits

    return [partial(call, count=count) for count in sorted({1, threads})]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def warm(call: Call, inputs: Inputs, calls: int) -> float:
    """Seconds of a call, the median after one that does not count."""
    call(inputs)
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        call(inputs)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def turns(calls: Mapping[str, Call], inputs: Inputs, settings: Benchmark) -> list[dict[str, Any]]:
    """Every cell once a round, in an order shuffled anew; what a turn takes is shared out evenly."""
    expected = {name: warm(call, inputs, settings.warmup) for name, call in calls.items()}
    share = settings.seconds_per_round / len(calls)
    # The first call of a turn finds the caches full of another cell and does not count.
    counts = {name: max(1, round(share / seconds) - 1) for name, seconds in expected.items()}
    rounds = []
    with no_garbage_collection():
        for number in range(settings.rounds):
            for name in np.random.default_rng(number).permutation(sorted(calls)).tolist():
                call, count = calls[name], counts[name]
                call(inputs)
                started = time.perf_counter()
                for _ in range(count):
                    call(inputs)
                seconds = time.perf_counter() - started
                rounds.append({"cell": name, "round": number, "calls": count, "seconds": seconds})
    return rounds


def run(
    variants: Mapping[str, Variant],
    targets: Mapping[str, Target],
    benchmark: Benchmark,
    threads: int,
    data: Path,
    models: Path,
    builds: Path,
    engines: Path,
    out: Path,
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = read_rows(data, "validation", Spec.read(data))
    first = next(iter(variants))
    reference = f"{first}/{next(name for name, target in targets.items() if isinstance(target, OnnxFp32))}"
    cells: dict[str, dict[str, Any]] = {}
    calls: dict[str, Call] = {}
    sizes: dict[str, list[int]] = {}  # that a build is made for

    for variant in variants:
        for name, target in targets.items():
            cell = f"{variant}/{name}"
            build = runtime.folder_of(target, name, builds / variant, engines / variant)
            record = Record.read(build)
            if record.status != "ok":
                cells[cell] = {"status": record.status, "reason": record.reason}
                continue
            sizes[cell] = [size for size in benchmark.batch_sizes if runtime.takes(build, size)]
            cells[cell] = fresh_footprint(build, threads, batch(rows, max(benchmark.batch_sizes)), sizes[cell])
            if cells[cell]["status"] == "ok":
                calls[cell] = runtime.open_build(build, threads).run
                if cell == reference:
                    calls["control"], sizes["control"] = runtime.open_build(build, threads).run, sizes[cell]
    eagers = eager(models / first, threads)

    rounds: list[dict[str, Any]] = []
    for size in benchmark.batch_sizes:
        able = {name: call for name, call in calls.items() if size in sizes[name]}
        # Its best foot: a speed-up over a hobbled PyTorch would be none.
        able["eager"] = min(eagers, key=lambda call: warm(call, batch(rows, size), benchmark.warmup))
        rounds += [{**turn, "batch_size": size} for turn in turns(able, batch(rows, size), benchmark)]

    timed = [cell for cell, found in cells.items() if found["status"] == "ok"]
    batches = {size: batch(rows, size) for size in benchmark.batch_sizes}
    certificate.write_measured(out / "certificates.json", timed, targets, builds, threads, batches)

    columns = {"cell": pa.string(), "batch_size": pa.int32(), "round": pa.int32(), "calls": pa.int32()}
    schema = pa.schema([*columns.items(), ("seconds", pa.float64())])
    pq.write_table(pa.Table.from_pylist(rounds, schema), out / "rounds.parquet")
    (out / "cells.json").write_text(json.dumps(cells, indent=2, sort_keys=True) + "\n", "utf-8")
    return summary(rounds)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median over rounds of a call's milliseconds: {cell: {latency_ms_<batch size>: x}}."""
    seconds: dict[str, dict[int, list[float]]] = {}
    for turn in rounds:
        of_cell = seconds.setdefault(turn["cell"], {}).setdefault(turn["batch_size"], [])
        of_cell.append(turn["seconds"] / turn["calls"])
    return {
        cell: {f"latency_ms_{size}": statistics.median(values) * 1000 for size, values in by_size.items()}
        for cell, by_size in seconds.items()
    }


if __name__ == "__main__":
    build_folder, thread_count, inputs_path, *batch_sizes = sys.argv[1:]
    with np.load(inputs_path, allow_pickle=False) as arrays:
        found = footprint(Path(build_folder), int(thread_count), dict(arrays), [int(size) for size in batch_sizes])
    sys.stdout.write(json.dumps(found) + "\n")
