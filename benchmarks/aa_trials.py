"""Does a build read "same" against itself? `python benchmarks/aa_trials.py` (about five minutes on two cores).

Each trial times three sessions of one and the same file as stage benchmark does: the reference, the A/A control and
a copy that stands for a cell of the matrix, and reads the verdicts as stage compare does. The builds are the fp32
ones of the model that params.yaml starts from and of the one it distils into, untrained: speed does not hang on that.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import results

from components import assemble, benchmark, build, params, pinning, runtime, speed
from components.data import Spec
from components.host import machine_lock
from components.session import ONNX_SESSION

REFERENCE, COPY = "reference", "copy"
CELLS = 23  # that share a round: turns are as short as in a matrix of so many
VERDICTS = ("same", "cannot tell", "faster", "slower")


def make(family: params.Family, inputs: Mapping[str, np.ndarray], spec: Spec, folder: Path) -> Path:
    folder.mkdir(parents=True)
    build.export(assemble.create(family, spec), inputs, folder / "model.onnx")
    runtime.write_build(folder, "onnx_fp32", "onnxruntime", "model.onnx", ONNX_SESSION, spec)
    return folder


def trial(folder: Path, inputs: Mapping[str, np.ndarray], settings: params.Benchmark, threads: int) -> dict[str, Any]:
    """Verdicts, intervals and rounds of one trial."""

    def opener() -> benchmark.Call:
        return runtime.open_build(folder, threads).run

    on = pinning.processors(threads)
    openers = dict.fromkeys((REFERENCE, benchmark.CONTROL, COPY), opener)
    with pinning.first(on):
        seconds = benchmark.turns(openers, REFERENCE, inputs, settings, on)
    turn = {name: np.array([np.median(calls) for calls in by_round]) for name, by_round in seconds.items()}
    control = speed.ratio(turn[REFERENCE], turn[benchmark.CONTROL], 0.95)
    copy = speed.ratio(turn[REFERENCE], turn[COPY], 0.95)
    noise = speed.noise(*control[1:])
    return {
        "control": speed.verdict(*control[1:], 0.0),
        "copy": speed.verdict(*copy[1:], noise),
        "ratio": copy[0],
        "noise": noise,
        "rounds": len(turn[REFERENCE]),
        "ms": float(np.median(turn[REFERENCE])) * 1000,
    }


def main() -> None:
    from sklearn.datasets import load_digits

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=1)
    arguments = parser.parse_args()
    loaded = params.load(ROOT / "params.yaml")
    share = loaded.benchmark.seconds_per_round / (CELLS + 2)
    settings = loaded.benchmark.model_copy(update={"seconds_per_round": 3 * share})
    digits = load_digits().images[: arguments.batch_size].astype(np.float32)
    spec = Spec(
        task="image_classification",
        inputs={"image": "float32"},
        vocabulary=None,
        shape=list(digits.shape[1:]),
        classes=loaded.task.classes,
        statistics={"mean": [4.9], "std": [6.0]},
    )
    inputs = {"image": digits}
    distilled = next(variant.model for variant in loaded.variants.values() if isinstance(variant, params.Distill))
    lines, load = [], [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as scratch, machine_lock(fcntl.LOCK_EX, "aa_trials"):
        for family in (loaded.init.model, distilled):
            folder = make(family, inputs, spec, Path(scratch, family.family))
            started, found = time.monotonic(), []
            for number in range(1, arguments.trials + 1):
                found.append(trial(folder, inputs, settings, loaded.threads))
                if number % 10 == 0:
                    told = Counter(one["control"] for one in found)
                    print(f"{family.family}: {number} trials, control: {dict(told)}", file=sys.stderr, flush=True)
            load.append(os.getloadavg()[0])
            control, copy = (Counter(one[name] for one in found) for name in ("control", "copy"))
            ratios = [one["ratio"] for one in found]
            lines.append(
                {
                    "build": f"{family.family}/fp32",
                    "batch": arguments.batch_size,
                    "call ms": f"{statistics.median(one['ms'] for one in found):.3f}",
                    "trials": len(found),
                    **{f"control: {verdict}": control[verdict] for verdict in VERDICTS},
                    **{f"copy: {verdict}": copy[verdict] for verdict in VERDICTS},
                    "copy's ratio": f"{min(ratios):.3f} to {max(ratios):.3f}",
                    "median noise": f"{statistics.median(one['noise'] for one in found):.1%}",
                    "median rounds": int(statistics.median(one["rounds"] for one in found)),
                    "s": time.monotonic() - started,
                }
            )
    notes = [
        "aim: at least 95 of 100 read same",
        f"load average at the start, and after each build: {', '.join(f'{value:.1f}' for value in load)}",
        f"{loaded.threads} threads; {settings.rounds} rounds, up to {settings.max_rounds} while it cannot be told",
        f"the verdict's rule: components/speed.py, with {speed.SAME:.0%} and {speed.NEAR:.0%}",
    ]
    print(results.write("aa_trials", "A build against itself", lines, notes))


if __name__ == "__main__":
    main()
