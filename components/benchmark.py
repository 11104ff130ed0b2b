"""Latency of all cells, interleaved round by round in one process; load time and memory, each in fresh ones.

Beside the cells stand `eager`, PyTorch running the first variant with the thread count that suits it best,
and `control`, a second session of the reference cell: an A/A comparison. What slows the machine for a while
slows all of them alike. Threads are pinned and do not spin, and sessions are opened anew as the rounds go on:
where its weights come to lie in memory makes a small build faster or slower by some percent, for as long as it
is open. A cell that fails, or takes the process down, does so in its fresh one, before it is timed.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from components import certificate, energy, footprint, host, pinning, rounds, runtime, speed
from components.cell import Record
from components.data import Rows, Spec, read_rows
from components.params import Benchmark, OnnxFp32, Target, Variant
from components.rounds import Turns

log = logging.getLogger("temper")

Inputs = Mapping[str, np.ndarray]
Call = Callable[[Inputs], Any]

# What timings hang on: of another machine's they say nothing. dvc.yaml lists the same fields.
HOST = (
    *("machine", "isa", "cores", "gpu", "driver", "providers"),
    *("onnx", "onnxruntime", "tensorrt", "torch", "transformers"),
)
EAGER, CONTROL = "eager", "control"
MOST_CALLS = 100  # in a turn: more make the file larger, not the median truer
LEAST_CALLS = 3  # so that one interrupted call does not move a turn's median
CHECK_EVERY = 10  # rounds
CONFIDENCE = 0.95  # of the intervals that say whether more rounds are needed
# PyTorch's threads spin on for about 10 ms after a call: they shall not do so in another cell's turn.
EAGER_SPINS_S = 0.03


def batch(rows: Rows, size: int) -> dict[str, np.ndarray]:
    """The first `size` rows; again from the top where there are fewer."""
    return {name: values[np.arange(size) % len(rows)] for name, values in rows.inputs.items()}


def tokens(rows: Rows, spec: Spec) -> int | None:
    """Of every text that is timed, padding included."""
    return rows.inputs["input_ids"].shape[1] if spec.vocabulary else None


def eager(model: Path, threads: int, example: Inputs, on: list[int]) -> list[Call]:
    """PyTorch as a user runs it, with one thread and with `threads`: small models are slower with more."""
    import torch

    from components import assemble

    loaded = assemble.load(model)

    def call(inputs: Inputs, count: int) -> np.ndarray:
        torch.set_num_threads(count)
        with torch.inference_mode():
            logits: np.ndarray = loaded.logits({name: torch.from_numpy(x) for name, x in inputs.items()}).numpy()
        return logits

    call(example, 1)  # what it starts here computes nothing
    pinning.spread(lambda: call(example, threads), on)
    return [partial(call, count=count) for count in sorted({1, threads})]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(call: Call, inputs: Inputs, count: int) -> np.ndarray:
    """Seconds of each of `count` calls after one that does not count: it finds the caches full of another cell."""
    call(inputs)
    clock, nanoseconds = time.perf_counter_ns, []
    for _ in range(count):
        started = clock()
        call(inputs)
        nanoseconds.append(clock() - started)
    return np.array(nanoseconds) / 1e9


def calls_in(share: float, seconds: float, most: float) -> int:
    """Calls of this many seconds in a turn of `share` seconds; at least LEAST_CALLS if these take `most` or less."""
    least = LEAST_CALLS if LEAST_CALLS * seconds <= most else 1
    return min(max(least, round(share / seconds) - 1), MOST_CALLS)


def undecided(seconds: Mapping[str, list[float]], reference: str) -> list[str]:
    """The cells of which it cannot be told yet whether they are faster or slower than the reference, or the same."""
    if reference not in seconds or CONTROL not in seconds:
        return []

    def interval(name: str) -> tuple[float, float]:
        return speed.ratio(np.array(seconds[reference]), np.array(seconds[name]), CONFIDENCE)[1:]

    noise = speed.noise(*interval(CONTROL))
    judged = {name: speed.verdict(*interval(name), 0.0 if name == CONTROL else noise) for name in seconds}
    return [name for name, verdict in judged.items() if name != reference and verdict == "cannot tell"]


def turns(
    openers: Mapping[str, Callable[[], Call]], reference: str, inputs: Inputs, settings: Benchmark, on: list[int]
) -> dict[str, list[np.ndarray]]:
    """Seconds of each call by cell and round; every cell once a round, in an order shuffled anew.

    What a turn may take is shared out evenly. A session is opened again as often as that takes no more time than
    its turns. Rounds go on until `undecided` names none, or to the most that settings allow.
    """
    share = settings.seconds_per_round / len(openers)
    calls: dict[str, Call] = {}
    counts: dict[str, int] = {}
    due = dict.fromkeys(openers, 1)  # the round in which it is opened again; the first time imports its library
    for name, opener in openers.items():
        calls[name] = pinning.spread(opener, on)
        expected = statistics.median(timed(calls[name], inputs, settings.warmup).tolist())
        counts[name] = calls_in(share, expected, settings.seconds_per_round)
    seconds: dict[str, list[np.ndarray]] = {name: [] for name in openers}
    with no_garbage_collection():
        for number in range(settings.max_rounds):
            if number >= settings.rounds and (number - settings.rounds) % CHECK_EVERY == 0:
                medians = {name: [float(np.median(turn)) for turn in by_round] for name, by_round in seconds.items()}
                if not undecided(medians, reference):
                    break
            for name in np.random.default_rng(number).permutation(sorted(openers)).tolist():
                if number == due[name]:
                    started = time.perf_counter()
                    calls[name] = pinning.spread(openers[name], on)
                    due[name] += max(1, math.ceil((time.perf_counter() - started) / share))
                    calls[name](inputs)
                seconds[name].append(timed(calls[name], inputs, counts[name]))
                if name == EAGER:
                    time.sleep(EAGER_SPINS_S)
    return seconds


@dataclass(frozen=True)
class Cell:
    """What can be timed: `open` gives a call of a new session."""

    open: Callable[[], Call]
    sizes: list[int]  # that the build is made for
    device: bool


def examine(
    variants: Mapping[str, Variant],
    targets: Mapping[str, Target],
    benchmark: Benchmark,
    threads: int,
    rows: Rows,
    builds: Path,
    engines: Path,
) -> tuple[dict[str, dict[str, Any]], dict[str, Cell]]:
    """(what cells.json says of every cell, those that work)"""
    said: dict[str, dict[str, Any]] = {}
    working: dict[str, Cell] = {}
    for variant in variants:
        for name, target in targets.items():
            cell = f"{variant}/{name}"
            build = runtime.folder_of(target, name, builds / variant, engines / variant)
            record = Record.read(build)
            if record.status != "ok":
                said[cell] = {"status": record.status, "reason": record.reason}
                continue
            sizes = [size for size in benchmark.batch_sizes if runtime.takes(build, size)]
            if not sizes:
                reason = f"takes none of benchmark.batch_sizes ({', '.join(map(str, benchmark.batch_sizes))})"
                said[cell] = {"status": "not measured", "reason": reason}
                continue
            largest = batch(rows, max(benchmark.batch_sizes))
            said[cell] = footprint.fresh(build, threads, largest, sizes, benchmark.loads)
            if said[cell]["status"] == "ok":
                said[cell] |= {"batch_sizes": sizes, "energy_mj": dict.fromkeys(map(str, sizes))}
                working[cell] = Cell(partial(opened, build, threads), sizes, runtime.runtime_of(target).DEVICE)
    return said, working


def opened(build: Path, threads: int) -> Call:
    return runtime.open_build(build, threads).run


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
    """cells.json, rounds.parquet and machine.json: where this was measured, and with what energy counter."""
    here = host.describe()
    spec = Spec.read(data)
    rows = read_rows(data, "validation", spec)
    first = next(iter(variants))
    reference = f"{first}/{next(name for name, target in targets.items() if isinstance(target, OnnxFp32))}"
    said, cells = examine(variants, targets, benchmark, threads, rows, builds, engines)
    on = pinning.processors(threads)
    eagers = eager(models / first, threads, batch(rows, 1), on)
    counters, missing = energy.found(any(cell.device for cell in cells.values()))
    measured: dict[str, dict[int, list[np.ndarray]]] = {}
    for size in benchmark.batch_sizes:
        inputs = batch(rows, size)
        able = {name: cell for name, cell in cells.items() if size in cell.sizes}
        openers = {name: cell.open for name, cell in able.items()}
        if reference in openers:
            openers[CONTROL] = openers[reference]
        with pinning.first(on):
            # Its best foot: a speed-up over a hobbled PyTorch would be none.
            best = min(eagers, key=lambda call: float(np.median(timed(call, inputs, benchmark.warmup))))
            time.sleep(EAGER_SPINS_S)
            openers[EAGER] = partial(_same, best)
            for name, by_round in turns(openers, reference, inputs, benchmark, on).items():
                measured.setdefault(name, {})[size] = by_round
            counted = {
                name: (pinning.spread(cell.open, on), counters[cell.device])
                for name, cell in able.items()
                if cell.device in counters
            }
            for name, millijoules in energy.per_row(counted, inputs, size).items():
                said[name]["energy_mj"][str(size)] = millijoules
        log.info("benchmark: batch %d: %d rounds", size, len(measured[EAGER][size]))

    batches = {size: batch(rows, size) for size in benchmark.batch_sizes}
    certificate.write_measured(out / "certificates.json", cells, targets, builds, threads, batches)
    rounds.write(measured, out)
    machine = {
        "host": {field: here[field] for field in HOST},
        "threads": threads,
        "processors": on,  # that the threads were pinned to
        "tokens": tokens(rows, spec),
        "energy": {"counter": "; ".join(c.name for c in counters.values()) or None, "reason": missing},
    }
    for file, content in (("cells.json", said), ("machine.json", machine)):
        (out / file).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
    return summary(measured)


def _same(call: Call) -> Call:
    return call


def summary(measured: Turns) -> dict[str, Any]:
    """{cell: {latency_ms_<batch size>: median of its calls}}."""
    return {
        cell: {f"latency_ms_{size}": rounds.latency(by_round, size)["p50_ms"] for size, by_round in by_size.items()}
        for cell, by_size in measured.items()
    }
