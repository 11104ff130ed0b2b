"""Training throughput of Temper's `fit` beside the Hugging Face Trainer and Lightning: same model, data and arithmetic.

    python benchmarks/against_trainers.py                         # all cases: an hour on two cores, alone
    python benchmarks/against_trainers.py --cases news --precisions fp32 --repeats 3
    python benchmarks/against_trainers.py --table                 # writes the tables anew from what is kept

Each way trains in a fresh process, round by round (A B C, A B C, ...), from the same weights on the same rows, cut to
the same length, with the preset's optimizer, schedule, clipping and loss, without its augmentation. Ratios are paired
by round. Lightning is installed beside the pinned environment, below .temper/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import environment
import preset_data
import results

from components.host import QUIET, WAITING

LIGHTNING = "lightning==2.6.6"
ROWS = {"news": 800, "fashion": 2560}  # of the training split, an epoch
# Default: as its documentation has it, but for evaluating, logging and saving, which are off for all. Tuned: rows as
# tensors that come a batch at once, grouped by length, a fused optimizer, channels last.
WAYS: dict[str, dict[str, Any]] = {
    "temper": {"way": "temper", "tuned": False, "workers": 0},
    "trainer, default": {"way": "trainer", "tuned": False, "workers": 0},
    "trainer, tuned": {"way": "trainer", "tuned": True, "workers": 0},
    "trainer, tuned, 2 workers": {"way": "trainer", "tuned": True, "workers": 2},
    "lightning, default": {"way": "lightning", "tuned": False, "workers": 0},
    "lightning, tuned": {"way": "lightning", "tuned": True, "workers": 0},
    "lightning, tuned, 2 workers": {"way": "lightning", "tuned": True, "workers": 2},
}
KEPT = "against_trainers"
CLOCKS = {"wall": "samples_per_s", "processor": "samples_per_cpu_s"}
NOTES = [
    "samples/s: of an epoch over some rows of the training split, without its first steps, in which buffers are made; "
    "clock processor: seconds in which a processor worked for it, which others on the machine hardly change",
    "temper is x: samples a second of Temper's fit over this way's, paired by round: median, least, greatest",
    "validation loss and accuracy after the same number of steps, on the same rows: the same work",
    "default: as documented, but without evaluating, logging and saving, which are off for all; tuned: rows as tensors "
    "that come a batch at once, batches of like length, a fused optimizer, channels last, images normalised once",
    "Temper's training processes set GOMP_SPINCOUNT, as its stages do; the others run as they are started",
    "in so few steps news has learnt next to nothing: its losses only show that nothing broke; that the gradients "
    "are the same is what tests/components/test_first_token.py shows. On fashion Temper and the tuned Trainer see the "
    "same batches",
    "2 workers that load made the tuned Trainer slower (news in fp32, one run apart: 103 samples/s against 116), and "
    "are not in the table",
    f"transformers {version('transformers')}, {LIGHTNING}",
    "aim: at least 1.2 times the best tuned, never below 1.0",
]


def started(way: str, job: Mapping[str, Any], pythons: Mapping[str, Path], scratch: Path) -> subprocess.Popen[str]:
    """one_training.py in a fresh process, up to where all is loaded. Temper's stages run with WAITING set."""
    folder = scratch / way.replace(", ", "-").replace(" ", "-")
    folder.mkdir(exist_ok=True)
    settings = {**job, **WAYS[way], "out": str(folder)}
    (folder / "job.json").write_text(json.dumps(settings), "utf-8")
    around = {**os.environ, **QUIET, **(WAITING if settings["way"] == "temper" else {})}
    python = pythons.get(settings["way"], Path(sys.executable))
    command = [str(python), str(ROOT / "benchmarks/one_training.py"), str(folder / "job.json")]
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            command, env=around, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )


def round_of(
    ways: Sequence[str], job: Mapping[str, Any], pythons: Mapping[str, Path], scratch: Path
) -> dict[str, dict[str, Any]]:
    """What each says of one training. All load together; then they train in turn, while those that wait sleep."""
    running = {way: started(way, job, pythons, scratch) for way in ways}
    told = {}
    try:
        for process in running.values():
            assert process.stdout
            while (line := process.stdout.readline()) and line.strip() != "ready":
                pass
        for way, process in running.items():
            answer = process.communicate("go\n")[0]
            if process.returncode:
                said = (scratch / way.replace(", ", "-").replace(" ", "-") / "said.txt").read_text("utf-8")
                raise RuntimeError(f"{way}: {said[-2000:]}")
            told[way] = json.loads(answer.splitlines()[-1])
    finally:
        for process in running.values():
            process.kill()
    return told


def job_of(preset: str, params: Any, folder: Path, precision: str, rows: int, threads: int) -> dict[str, Any]:
    fit = params.variants["base"].fit.model_dump()
    fit |= {"augment": None, "epochs": 1, "patience": 1, "precision": None if precision == "fp32" else precision}
    where = {"data": str(folder / "data"), "model": str(folder / "init")}
    return {**where, "fit": fit, "rows": rows, "threads": threads, "seed": params.seed}


def lines(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each way: samples a second, how many times as fast Temper is, paired by round, and what came of it."""
    clock, runs_of = CLOCKS[kept["clock"]], kept["runs"]
    ours = [one[clock] for one in runs_of["temper"]]
    found = []
    for way, runs in runs_of.items():
        speed = [one[clock] for one in runs]
        ratios = [mine / theirs for mine, theirs in zip(ours, speed, strict=True)]
        found.append(
            {
                **{name: kept[name] for name in ("case", "precision", "threads", "clock")},
                "way": way,
                "samples/s": statistics.median(speed),
                "temper is x": statistics.median(ratios),
                "least": min(ratios),
                "greatest": max(ratios),
                "runs": len(runs),
                "steps": runs[0]["steps"],
                "validation loss": f"{statistics.median(one['validation_loss'] for one in runs):.3f}",
                "validation accuracy": f"{statistics.median(one['validation_accuracy'] for one in runs):.3f}",
            }
        )
    return found


def table(folder: Path) -> str:
    """Write both files from the runs in against_trainers.runs.json in this folder of results."""
    found, notes = [], []
    for kept in json.loads((folder / f"{KEPT}.runs.json").read_text("utf-8")).values():
        some = lines(kept)
        found += some
        if tuned := [line for line in some if "tuned" in line["way"]]:
            best = min(tuned, key=lambda line: line["temper is x"])
            where = " ".join(str(kept[name]) for name in ("case", "precision"))
            notes.append(f"{where}, {kept['threads']} thread(s), {kept['clock']}: {best['temper is x']:.2f} times the "
                         f"best tuned, {best['way']}")  # fmt: skip
        notes += kept.get("notes", [])
    return results.write(KEPT, "Training throughput beside other trainers", found, [*notes, *NOTES], folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, help="of the training split; else as many as suit the case")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="processor: on a busy machine, 1 thread")
    parser.add_argument("--work", type=Path, default=environment.FOLDER / "data", help="where prepared data are kept")
    parser.add_argument("--out", type=Path, default=results.FOLDER)
    parser.add_argument("--install", action="store_true", help="only install and prepare")
    parser.add_argument("--table", action="store_true", help="only write the tables anew")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.out))
        return
    pythons = {}
    ways = ["temper", *(way for way in arguments.ways if way != "temper")]
    if any(WAYS[way]["way"] == "lightning" for way in ways):
        pythons["lightning"] = environment.beside("lightning", [LIGHTNING])
    file = arguments.out / f"{KEPT}.runs.json"
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = json.loads(file.read_text("utf-8")) if file.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for case in arguments.cases:
            try:
                params = preset_data.make(case, ROOT, arguments.work / case)
            except preset_data.Absent as absent:
                print(f"skipped {absent}", file=sys.stderr)
                continue
            for precision in arguments.precisions if not arguments.install else []:
                rows = arguments.rows or ROWS[case]
                job = job_of(case, params, arguments.work / case, precision, rows, arguments.threads)
                told: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
                what = {"case": case, "precision": precision, "threads": arguments.threads, "clock": arguments.clock}
                for number in range(arguments.repeats):
                    for way, one in round_of(ways, job, pythons, Path(scratch)).items():
                        told[way].append(one)
                        print(f"{case} {precision} {number} {way}: {one}", file=sys.stderr, flush=True)
                    kept[" ".join(map(str, what.values()))] = {**what, "rows": rows, "runs": told}
                    file.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    if kept:
        print(table(arguments.out))


if __name__ == "__main__":
    main()
