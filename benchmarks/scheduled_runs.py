"""Retraining on schedule, shown: digits that grow, a batch that makes the model worse, a batch that is broken.

    python benchmarks/scheduled_runs.py [--workspace FOLDER]

A workspace with small params and a preset `growing` gets `temper up`; then its own schedule starts each run: rows come
(promoted), more rows come (promoted), nothing new (no-op), rows with wrong labels come (trained, refused, green), rows
that are no digits come (refused before training, red). Then `temper rollback` goes one champion back, and
`temper reproduce` makes that version again. Each step says what it found and how long it took; the exit code is 1 if
one is not as it should be.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import results
from ruamel.yaml import YAML
from sklearn.datasets import load_digits

from flows import agenda
from flows import group as groups
from tests.workspace import BIN, SMALL, Workspace

NAME = "growing"
PATIENCE_S = 900.0
AHEAD_S, LATE_S = 5.0, 15.0  # Prefect's scheduler looks at what is to come, never at what is past
FAST = {  # Prefect looks for runs every ten seconds, and at schedules every minute
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
}
CLEAN, MORE = 900, 1300  # rows of the first and the second batch, of 1797


@dataclass(frozen=True)
class Step:
    """What one step was to show, and what came."""

    what: str
    expected: str
    got: str
    champion: int | None
    seconds: float

    @property
    def right(self) -> bool:
        return self.expected in self.got

    @property
    def said(self) -> str:
        """The line that tells; the last one if none does."""
        lines = [line.strip() for line in self.got.splitlines() if line.strip()] or [""]
        return next((line for line in lines if self.expected in line), lines[-1])


def rows(images: Any, labels: Any, first: int, split: str | None = None) -> list[list[Any]]:
    """Lines of the CSV; every fifth row is held out, whatever comes later, unless `split` says."""
    held = {0: "test", 1: "validation", 2: "calibration"}
    return [
        [split or held.get((first + i) % 10, "train"), int(label), *map(float, image.ravel())]
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def write(path: Path, lines: list[list[Any]]) -> None:
    aside = path.with_suffix(".new")
    with aside.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["part", "target", *(f"pixel_{i}" for i in range(64))])
        out.writerows(lines)
    aside.replace(path)


def preset(data: Path) -> dict[str, Any]:
    """Digits from a file that grows, with one small variant."""
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    task = {**raw["task"], "columns": {**raw["task"]["columns"], "split": "part"}}
    small = {
        **SMALL,
        "variants": {"base": SMALL["variants"]["base"]},
        "targets": {name: SMALL["targets"][name] for name in ("fp32", "int8_dynamic")},
    }
    return {
        "name": NAME,
        "source": {"kind": "csv", "path": str(data), "delimiter": ","},
        "task": task,
        **small,
        "validate": {"min_rows": 500},
        "schedule": {"cron": "0 3 * * *", "timezone": "UTC"},
    }


class Demonstration:
    """The workspace, its servers, and the steps so far."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder)
        self.folder, self.data = folder, folder.parent / "digits.csv"
        for old in (folder / "presets").glob("*.yaml"):
            old.unlink()
        with (folder / f"presets/{NAME}.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(preset(self.data), file)
        self.workspace.commit()
        digits = load_digits()
        self.images, self.labels = digits.images, digits.target
        self.lines: list[list[Any]] = []
        self.steps: list[Step] = []

    def temper(self, *words: str, code: int | None = 0) -> str:
        return self.workspace(str(BIN / "python"), "-m", "temper", *words, code=code, **FAST)

    def ask(self, call: str, body: Any = None) -> Any:
        group = groups.read(self.folder)
        assert group is not None
        return agenda.ask(f"{group.prefect}/api", group.password, call, body)

    def champion(self) -> int | None:
        return self.workspace.registry()[1] if (self.folder / "mlruns/mlflow.db").exists() else None

    def come(self, first: int, last: int, split: str | None = None, wrong: int = 0, scale: float = 1.0) -> None:
        """Rows first..last of the digits are added, their labels moved on by `wrong`, their pixels times `scale`."""
        labels = (self.labels[first:last] + wrong) % 10
        self.lines += rows(self.images[first:last] * scale, labels, first, split)
        write(self.data, self.lines)

    def due(self) -> dict[str, Any]:
        """Let the server's own scheduler start one run now; returns it when it has ended."""
        deployment = self.ask(f"/deployments/name/retrain/{NAME}")["id"]
        known = {run["id"] for run in self._runs(deployment)}
        at = 0.0
        for _ in range(round(PATIENCE_S / 0.3)):
            if time.time() > at + LATE_S and not {run["id"] for run in self._runs(deployment)} - known:
                at = time.time() + AHEAD_S
                first = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
                rule = {"rrule": f"DTSTART:{first}\nRRULE:FREQ=SECONDLY;COUNT=1", "timezone": "UTC"}
                self.ask(f"/deployments/{deployment}/schedules", [{"schedule": rule, "active": True}])
            for run in self._runs(deployment):
                if run["id"] not in known and run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                    return run
            time.sleep(0.3)
        raise AssertionError(f"no run ended within {PATIENCE_S:.0f} s")

    def _runs(self, deployment: str) -> list[dict[str, Any]]:
        """Those that are due by now; the next days' are on the server's list as well."""
        now = time.strftime("%FT%T", time.gmtime(time.time() + 5))
        of = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC"}
        return [run for run in self.ask("/flow_runs/filter", of) if run["expected_start_time"] < now]

    def step(self, what: str, expected: str, do: Callable[[], str]) -> None:
        began = time.monotonic()
        got = do()
        self.steps.append(Step(what, expected, got, self.champion(), round(time.monotonic() - began, 1)))
        last = self.steps[-1]
        print(f"{'ok ' if last.right else 'NOT'} {last.seconds:7.1f} s  champion {last.champion}  {what}")
        print(f"               {last.said[:160]}", flush=True)

    def scheduled(self) -> str:
        run = self.due()
        return f"{run['state_name']}: {run['state']['message']}"


def demonstrate(folder: Path) -> list[Step]:
    """All steps, the servers ended in any case."""
    shown = Demonstration(folder)
    shown.come(0, CLEAN)
    try:
        shown.step("temper up", "Prefect", lambda: shown.temper("up", "--detach"))
        shown.step("scheduled: the first rows", f"Completed: version 1 of {NAME} is the champion now", shown.scheduled)
        shown.come(CLEAN, MORE)
        shown.step("scheduled: more rows", f"Completed: version 2 of {NAME} is the champion now", shown.scheduled)
        shown.step("scheduled: nothing new", "Completed: nothing to do", shown.scheduled)
        good = list(shown.lines)
        shown.come(MORE, len(shown.labels), split="train", wrong=1)
        shown.step("scheduled: wrong labels", "Completed: nothing to do: no cell meets the policy", shown.scheduled)
        shown.lines = list(good)
        shown.come(MORE, len(shown.labels), scale=100.0)
        shown.step("scheduled: no digits", "Failed: validate: ", shown.scheduled)
        back = ("rollback", "--preset", NAME, "--reason", "the demonstration")
        again = ("reproduce", "champion", "--preset", NAME)
        shown.step("temper rollback", f"version 1 of {NAME} ", lambda: shown.temper(*back))
        shown.step("temper reproduce champion", "bit-equal: version 1 ", lambda: shown.temper(*again))
    finally:
        shown.step("temper down", "Prefect", lambda: shown.temper("down"))
    return shown.steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="a new folder; left out, one that is removed")
    given = parser.parse_args().workspace
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        steps = demonstrate(given or Path(scratch, "ws"))
    if not all(step.right for step in steps):
        return 1
    lines = [
        {
            "step": step.what,
            "what it said": textwrap.shorten(step.said, 110, placeholder=" ..."),
            "champion": step.champion or "",
            "s": step.seconds,
        }
        for step in steps
    ]
    notes = [
        "One run of this script. A scheduled run's time begins when its rows are there: five seconds until it is due "
        "are in it.",
        f"{CLEAN} rows, then {MORE}, then {len(load_digits().target)}; one small variant, two targets.",
    ]
    print(results.write("scheduled_runs", "Retraining on schedule, rollback and reproduce", lines, notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
