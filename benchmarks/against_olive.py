"""Temper's INT8 build beside Olive's of the same finished model: size, accuracy, latency, wall time.

    python benchmarks/against_olive.py MODEL DATA         # a finished model of texts and its prepared data
    python benchmarks/against_olive.py                    # base of the preset news, from its worktree

MODEL is a model folder as a variant writes it (also a checkpoint of transformers), DATA what `prepare` wrote. Olive is
installed beside the pinned environment, below .temper/benchmarks, and runs each workflow in a fresh process from an
empty cache. What comes of it is timed by the harness that times a matrix: interleaved rounds, threads pinned, rows of
the test split at the full length.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import environment
import numpy as np
import results

from components import answers, benchmark, parity, pinning, rounds, runtime, speed
from components.data import Rows, Spec, read_rows
from components.host import QUIET
from components.params import Benchmark, Parity
from components.session import ONNX_SESSION, onnx_session
from components.tasks import TASKS

PACKAGES = ["olive-ai==0.13.0", "requests"]  # it needs requests and does not say so
QUIETER = {"CI": "true"}  # or it phones home at its start, opted out or not
PRESET = ROOT / ".temper/presets/news/work"
IO = {
    "input_names": ["input_ids", "attention_mask"],
    "output_names": ["logits"],
    "input_shapes": [[2, 64], [2, 64]],
    "input_types": ["int64", "int64"],
    "dynamic_axes": {name: {"0": "batch", "1": "length"} for name in ("input_ids", "attention_mask")},
    "dynamic_shapes": {name: {"0": "batch", "1": "length"} for name in ("input_ids", "attention_mask")},
}
INT8 = {"type": "OnnxQuantization", "quant_mode": "dynamic"}  # its default, static, calibrates on what it downloads
EAGER = {"attn_implementation": "eager"}  # the one attention that its optimiser knows
RAW_MASK = {"attention_mask_format": 2}  # or a mask is taken for a length
FLOAT = {"DefaultTensorType": 1}  # or quantizing what was fused fails
NO_EMBED = {"enable_embed_layer_norm": False}  # it cannot be quantized either
ALONE = {**NO_EMBED, "enable_skip_layer_norm": False, "enable_bias_skip_layer_norm": False}
# Each: how the model is loaded, and its passes.
WORKFLOWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": (
        {},
        {
            "convert": {"type": "OnnxConversion", "use_dynamo_exporter": True},
            "optimise": {"type": "OrtTransformersOptimization", "model_type": "bert"},
            "quantize": INT8,
        },
    ),
    "default, torchscript": (
        {},
        {
            "convert": {"type": "OnnxConversion"},
            "optimise": {"type": "OrtTransformersOptimization", "model_type": "bert"},
            "quantize": INT8,
        },
    ),
    "by hand": (
        EAGER,
        {
            "convert": {"type": "OnnxConversion", "target_opset": 17},
            "optimise": {
                "type": "OrtTransformersOptimization", "model_type": "bert", "opt_level": 1,
                "optimization_options": {**RAW_MASK, **NO_EMBED},
            },
            "quantize": {**INT8, "per_channel": True, "quant_preprocess": False, "extra_options": FLOAT},
        },
    ),
    "by hand, attention alone": (
        EAGER,
        {
            "convert": {"type": "OnnxConversion", "target_opset": 17},
            "optimise": {
                "type": "OrtTransformersOptimization", "model_type": "bert", "opt_level": 1,
                "optimization_options": {**RAW_MASK, **ALONE},
            },
            "quantize": {**INT8, "per_channel": True, "quant_preprocess": False, "extra_options": FLOAT},
        },
    ),
}  # fmt: skip
# How ONNX Runtime opens a file: by its defaults (threads that spin stop with the call, so as not to slow down what is
# timed next), or as Temper's builds say.
SESSIONS: dict[str, dict[str, Any]] = {"plain": {"spins": True}, "ours": ONNX_SESSION}
KEPT = "against_olive"
REFERENCE = "olive, default; plain session"
GRID = Parity(
    batch_sizes=[1, 3, 32], rows=96, max_export_difference=1e-3, min_export_agreement=1.0, min_build_agreement=0.95
)


def config(workflow: str, model: Path, folder: Path) -> dict[str, Any]:
    load, passes = WORKFLOWS[workflow]
    return {
        "input_model": {
            "type": "HfModel", "model_path": str(model), "task": "text-classification", "io_config": IO,
            "load_kwargs": load,
        },
        "systems": {"here": {"type": "LocalSystem", "accelerators": [
            {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}},
        "host": "here", "target": "here", "passes": passes,
        "cache_dir": str(folder / "cache"), "output_dir": str(folder / "out"), "log_severity_level": 2,
    }  # fmt: skip


def olive(workflow: str, python: Path, model: Path, folder: Path) -> tuple[Path, float]:
    """(its ONNX file, seconds of the whole process)."""
    folder.mkdir(parents=True)
    file = folder / "workflow.json"
    file.write_text(json.dumps(config(workflow, model, folder), indent=1), "utf-8")
    seconds = process([str(python), "-m", "olive", "run", "--config", str(file)], folder, QUIETER)
    found = sorted((folder / "out").rglob("*.onnx"))
    if not found:
        raise RuntimeError(f"olive, {workflow}: wrote no model")
    return found[0], seconds


def process(command: list[str], folder: Path, more: Mapping[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **QUIET, **more}, check=False, capture_output=True, text=True
    )
    (folder / "said.txt").write_text(done.stdout + done.stderr, "utf-8")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])}: {(done.stdout + done.stderr)[-2000:]}")
    return time.perf_counter() - started


BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from components import assemble, build, fusion, graph, runtime
from components.data import read_rows, Spec
from components.params import OnnxInt8Dynamic
from components.targets import onnx_int8_dynamic
import torch
torch.set_num_threads(2)
model, data, out = map(Path, sys.argv[2:5])
loaded = assemble.load(model)
build.export(loaded, read_rows(data, "validation", loaded.spec).head(2).inputs, out / "exported.onnx")
target = OnnxInt8Dynamic(kind="onnx_int8_dynamic", per_channel=True, min_integer_share=1.0)
folder = out / "build"
folder.mkdir()
figures = onnx_int8_dynamic.run(out / "exported.onnx", target, graph.context(data, 2, out / "cache"), folder)
runtime.ship(target, folder, data, figures)
"""


def temper(model: Path, data: Path, folder: Path) -> tuple[Path, float]:
    """(the folder of its build, seconds of the whole process); the export lies beside it."""
    folder.mkdir(parents=True)
    (folder / "build.py").write_text(BUILD, "utf-8")
    command = [sys.executable, str(folder / "build.py"), str(ROOT), str(model), str(data), str(folder)]
    return folder / "build", process(command, folder, {})


class Opened:
    """A file of Olive's, opened with these options; called as Temper's own builds are."""

    def __init__(self, file: Path, options: Mapping[str, Any], threads: int) -> None:
        self._session = onnx_session(file.read_bytes(), options, threads)
        self._names = [node.name for node in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        logits: np.ndarray = self._session.run(["logits"], {name: inputs[name] for name in self._names})[0]
        return logits


def agreements(spec: Spec, rows: Rows, exported: Any, candidate: Any) -> dict[str, float]:
    """Share of top answers that are those of the fp32 export: the worst of Temper's parity grid, and under masks."""
    found = {}
    for case in TASKS[spec.task].grid(rows.inputs, GRID):
        pairs = [
            (exported.run(batch), candidate.run(batch))
            for batch in parity.batches(case.inputs, case.batch_size, GRID.rows)
        ]
        ours, theirs = (np.concatenate(some) for some in zip(*pairs, strict=True))
        found[case.where] = float((ours.argmax(1) == theirs.argmax(1)).mean())
    return {
        "worst": min(found.values()),
        "left padding": min(x for where, x in found.items() if "left" in where),
        "holes": min(x for where, x in found.items() if "holes" in where),
    }


def measured(
    openers: Mapping[str, Callable[[], Any]], rows: Rows, settings: Benchmark, threads: int
) -> dict[str, dict[int, list[np.ndarray]]]:
    """Seconds of each call by candidate, batch size and round, in the harness that times a matrix."""
    on = pinning.processors(threads)
    found: dict[str, dict[int, list[np.ndarray]]] = {name: {} for name in [*openers, benchmark.CONTROL]}
    calls = {name: partial(lambda opener: opener().run, opener) for name, opener in openers.items()}
    calls[benchmark.CONTROL] = calls[REFERENCE]
    for size in settings.batch_sizes:
        with pinning.first(on):
            timed = benchmark.turns(calls, REFERENCE, benchmark.batch(rows, size), settings, on)
        for name, by_round in timed.items():
            found[name][size] = by_round
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", default=PRESET / "models/base")
    parser.add_argument("data", type=Path, nargs="?", default=PRESET / "data/prepared")
    parser.add_argument("--workflows", nargs="+", default=list(WORKFLOWS), choices=list(WORKFLOWS))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep what is built here, and take what lies here already")
    parser.add_argument("--out", type=Path, default=results.FOLDER)
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").exists():
        sys.exit(f"{arguments.model}: is no finished model; run `temper run --preset news`, or name one and its data")
    python = environment.beside("olive", PACKAGES)
    with tempfile.TemporaryDirectory() as scratch:
        compare(arguments, python, arguments.work or Path(scratch))


def compare(arguments: argparse.Namespace, python: Path, work: Path) -> None:
    model, data, threads = arguments.model.resolve(), arguments.data.resolve(), arguments.threads
    spec = Spec.read(data)
    test = read_rows(data, "test", spec)
    made: dict[str, tuple[Path, float]] = {}
    told = work / "made.json"
    known = json.loads(told.read_text("utf-8")) if told.exists() else {}
    for name in ["temper", *arguments.workflows]:
        folder = work / name.replace(", ", "-").replace(" ", "-")
        if name not in known:
            shutil.rmtree(folder, ignore_errors=True)
            path, took = temper(model, data, folder) if name == "temper" else olive(name, python, model, folder)
            known[name] = [str(path), took]
            told.write_text(json.dumps(known), "utf-8")
            print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)
        made[name] = Path(known[name][0]), known[name][1]
    openers: dict[str, Callable[[], Any]] = {"temper": partial(runtime.open_build, made["temper"][0], threads)}
    for name in arguments.workflows:
        for session, options in SESSIONS.items():
            openers[f"olive, {name}; {session} session"] = partial(Opened, made[name][0], options, threads)
    settings = Benchmark(
        batch_sizes=[1, 32],
        rounds=arguments.rounds,
        max_rounds=arguments.rounds,
        warmup=5,
        seconds_per_round=0.5,
        loads=1,
    )
    times = measured(openers, test, settings, threads)
    medians = rounds.medians(times)
    exported = Opened(work / "temper/exported.onnx", ONNX_SESSION, threads)
    lines = []
    for name, opener in openers.items():
        origin = name.partition("; ")[0].removeprefix("olive, ")
        file = made[origin][0] / "model.onnx" if origin == "temper" else made[origin][0]
        opened = opener()
        agreed = agreements(spec, test, exported, opened)
        line: dict[str, Any] = {
            "build": name,
            "MB": file.stat().st_size / 1e6,
            "accuracy": f"{answers.ask(opened, test).accuracy():.4f}",
        }
        for size in settings.batch_sizes:
            line[f"ms, batch {size}"] = rounds.latency(times[name][size], size)["p50_ms"]
            ratio, low, high = speed.ratio(medians[name][size], medians["temper"][size], benchmark.CONFIDENCE)
            line[f"temper is x, batch {size}"] = f"{ratio:.2f} ({low:.2f} to {high:.2f})"
        line |= {f"same answers, {case}": f"{share:.3f}" for case, share in agreed.items()}
        line["made in s"] = made[origin][1]
        lines.append(line)
    notes = [
        f"{threads} threads, pinned; {settings.rounds} interleaved rounds, sessions opened anew as they go on; length "
        f"{spec.shape[0]}; accuracy on the {len(test)} rows of the test split",
        "temper is x: how many times as fast Temper's build answers, median over rounds, with its 95% interval",
        "same answers: share of top answers that are the fp32 export's: least over the parity grid, with padding on "
        "the left, with holes in the mask",
        "made in s: the whole process, from the finished model to the INT8 file, cache empty; Temper's without its "
        "parity gate",
        "sessions: plain is ONNX Runtime's own, but that threads stop spinning when a call ends; ours: "
        + json.dumps(ONNX_SESSION),
        "workflows: " + "; ".join(f"{name}: {json.dumps(WORKFLOWS[name])}" for name in arguments.workflows),
        "aim: 1.2 times as fast as Olive's best by hand, 1.4 times as its default, at no less accuracy",
    ]
    print(results.write(KEPT, "INT8 of news base beside Olive 0.13", lines, notes, arguments.out))


if __name__ == "__main__":
    main()
