"""The reliability drill: every test that holds a point of the list (mark `hardening`), slow ones too, as one table.

A file of tests that go on from each other (IN_ORDER) runs whole.
Writes results/drill.json and docs/reliability.md; with paths it runs only the tests there, and writes nothing.
Exit code 1 if anything was lost. Bring an hour on two cores for all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

KEPT, PAGE = ROOT / "benchmarks/results/drill.json", ROOT / "docs/reliability.md"
# Each of its cases takes a third of an hour: a unit of work for itself, and the first to begin.
APART = "::test_killed_in_every_stage_"
LIBRARIES = ("prefect", "mlflow", "dvc", "torch", "onnx", "onnxruntime", "great-expectations")
GROUPS = {
    "A": ("Crash and resume", range(1, 9)),
    "B": ("Concurrency", range(9, 15)),
    "C": ("Storage faults", range(15, 22)),
    "D": ("Tracking server", range(22, 25)),
    "E": ("Bad data", range(25, 30)),
    "F": ("Bad params", range(30, 34)),
    "G": ("Bad model files", range(34, 40)),
    "H": ("Serving", range(40, 50)),
    "I": ("Authentication and TLS", range(50, 53)),
    "J": ("Promotion and rollback", range(53, 58)),
    "K": ("Supply chain and secrets", range(58, 64)),
    "L": ("Resource bounds", range(64, 66)),
}
HEAD = """# What was done to Temper, and what held

Made by `make drill` (benchmarks/drill.py), which runs every test that carries the mark `hardening`: a fault is made on
purpose, and what must hold is asserted. After each that works in a workspace, `temper doctor --invariants` must find
nothing there. *Times* counts the cases of a test, and what it repeats in itself. A test that fails reads **lost**.
"""


@dataclass
class Line:
    """One test of one point: what is done, how often, what must hold, and whether it did."""

    point: str
    done: str
    holds: str
    test: str
    times: int = 0
    seconds: float = 0.0
    outcome: str = "held"  # lost, skipped
    why: str = ""  # it was skipped
    lost: list[str] = field(default_factory=list)  # its cases that failed, or did not come to an end


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """This file as a plugin of each worker: keep what has the mark, and whole files IN_ORDER of which one has it.

    What stands APART comes first: a worker is given up to three units ahead, and one would be given all of it.
    """
    marked = [item for item in items if item.get_closest_marker("hardening")]
    in_order = {item.path for item in marked if getattr(getattr(item, "module", None), "IN_ORDER", False)}
    kept = [item for item in items if item in marked or item.path in in_order]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = sorted(kept, key=lambda item: APART not in item.nodeid)


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """A file of tests runs in one process, in order, but for what stands APART."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if APART in nodeid else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


class Collector:
    """A plugin of pytest that makes lines of its reports."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, str], Line] = {}
        self.of: dict[str, list[Line]] = {}  # by case
        self.failed: set[str] = set()  # cases

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            test = item.nodeid.partition("[")[0]
            holds = test.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            for mark in item.iter_markers("hardening"):
                point, done = mark.args
                line = self.lines.setdefault((point, test), Line(point, done, holds, test, outcome="lost"))
                line.lost.append(item.nodeid)
                self.of.setdefault(item.nodeid, []).append(line)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for line in self.of.get(report.nodeid, []):
            line.seconds += report.duration
            failed = report.failed or hasattr(report, "wasxfail")
            if report.when == "call" and report.passed:
                line.times += int(dict[str, Any](report.user_properties).get("times", 1))
            if report.skipped and not failed:
                line.why = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            ended = report.when == "teardown" and report.nodeid not in self.failed
            if failed:
                self.failed.add(report.nodeid)
            elif ended and report.nodeid in line.lost:
                line.lost.remove(report.nodeid)
            line.outcome = "lost" if line.lost else "held" if line.times else "skipped"


def order(line: Line) -> tuple[str, int, str]:
    number = re.search(r"\d+", line.point)
    return line.point[:1], int(number[0]) if number else 0, line.test


def drill(paths: Sequence[str], workers: int) -> tuple[list[Line], int]:
    """Run the tests, files beside each other; the lines in the list's order, and pytest's exit code."""
    collector = Collector()
    options = ["-c", str(ROOT / "pyproject.toml"), "-m", "", "-p", "no:cacheprovider", "-p", "drill"]
    with contextlib.redirect_stdout(io.StringIO()) as said:  # a list of all that was collected
        code = pytest.main([*options, "--collect-only", *paths], plugins=[collector])
    if code:
        print(said.getvalue())
        return [], int(code)
    more = ["--tb=short", "-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    code = pytest.main([*options, *more, *paths], plugins=[collector])
    return sorted(collector.lines.values(), key=order), int(code)


def again(kept: Iterable[Line]) -> list[str]:
    """What to run so that all which was lost is tried again: its cases, and files whole whose tests need each other."""
    cases = sorted({case for line in kept for case in line.lost})
    texts = {case: (ROOT / case.partition("::")[0]).read_text("utf-8") for case in cases}
    return list(
        dict.fromkeys(case.partition("::")[0] if "\nIN_ORDER = True" in texts[case] else case for case in cases)
    )


def merged(kept: Iterable[Line], now: Iterable[Line], tried: Sequence[str]) -> list[Line]:
    """The kept lines with those of now in their places; where only lost cases were tried, the others' times stay."""
    found = {(line.point, line.test): line for line in kept}
    for line in now:
        before = found.get((line.point, line.test))
        if before and before.lost and {*before.lost} <= {*tried}:
            line = replace(line, times=before.times + line.times, seconds=before.seconds + line.seconds)
        found[line.point, line.test] = line
    return sorted(found.values(), key=order)


def result(lines: Iterable[Line], seconds: float) -> dict[str, Any]:
    from components.host import describe

    host = describe()
    versions = {"python": sys.version.split()[0]} | {library: version(library) for library in LIBRARIES}
    kept = [asdict(line) | {"seconds": round(line.seconds, 1)} for line in lines]
    shown = {"machine": host["machine"], "cores": host["cores"]}
    date = datetime.now(UTC).date().isoformat()
    return {"date": date, "host": shown, "versions": versions, "seconds": round(seconds), "lines": kept}


def page(known: dict[str, Any]) -> str:
    """docs/reliability.md of what was kept."""
    lines = [Line(**line) for line in known["lines"]]
    told = ", ".join(f"{name} {number}" for name, number in known["versions"].items())
    counts = {how: sum(line.outcome == how for line in lines) for how in ("held", "lost", "skipped")}
    text = [
        HEAD,
        f"{known['date']}, {known['host']['machine']}, {known['host']['cores']} cores; {told}. "
        f"{counts['held']} tests held, {counts['lost']} lost, {counts['skipped']} skipped; "
        f"{sum(line.times for line in lines)} cases in {known['seconds'] / 60:.0f} minutes.",
    ]
    for group, (title, _) in GROUPS.items():
        if rows := [line for line in lines if line.point.startswith(group)]:
            text.append(f"\n## {group}. {title}\n")
            text.append("| point | what was done | times | what must hold | outcome | s |\n|---|---|---|---|---|---|")
            text += ["| " + " | ".join(map(_cell, cells(line))) + " |" for line in rows]
    skipped = [f"- {line.point}, {line.holds}: {line.why}" for line in lines if line.outcome == "skipped"]
    text += ["\n## Skipped, and why\n", "\n".join(skipped) or "Nothing."]
    text += ["\n## Points of the list that no test holds\n", missing(lines) or "None."]
    return "\n".join(text) + "\n"


def _cell(text: str) -> str:
    return "**lost**" if text == "lost" else text.replace("|", "\\|")


def cells(line: Line) -> list[str]:
    return [line.point, line.done, str(line.times), line.holds, line.outcome, f"{line.seconds:.1f}"]


def missing(lines: Iterable[Line]) -> str:
    """The points without a test, as `H40, H41`; those of serving wait for the server."""
    held = {found[0] for line in lines if (found := re.match(r"[A-Z]\d+", line.point))}
    return ", ".join(f"{g}{n}" for g, (_, numbers) in GROUPS.items() for n in numbers if f"{g}{n}" not in held)


def show(lines: Iterable[Line]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from temper.workspace import console

    table = Table("point", "what was done", "times", "what must hold", "outcome", "s", box=None, padding=(0, 2, 0, 0))
    group = ""
    for line in lines:
        if line.point[:1] != group:
            group = line.point[:1]
            table.add_row(f"[bold]{group}[/bold]", f"[bold]{GROUPS.get(group, ('', ()))[0]}[/bold]")
        style = {"lost": "bold red", "skipped": "yellow"}.get(line.outcome, "green")
        *rest, outcome, seconds = cells(line)
        table.add_row(*map(escape, rest), f"[{style}]{outcome}[/{style}]", seconds)
    console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="kept", action="store_true", help="only make the page of what was kept")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--lost", action="store_true", help="run again what the kept drill lost, and mend its table")
    what.add_argument("paths", nargs="*", default=[], help="run only the tests there, and keep nothing")
    parser.add_argument("--workers", type=int, default=2, help="test files at once (2)")
    arguments = parser.parse_args()
    if arguments.kept:
        PAGE.write_text(page(json.loads(KEPT.read_text("utf-8"))), "utf-8")
        return 0
    paths, before, seconds = arguments.paths or ["tests"], [], 0.0
    if arguments.lost:
        known = json.loads(KEPT.read_text("utf-8"))
        before, seconds = [Line(**line) for line in known["lines"]], known["seconds"]
        paths = again(before)
        if not paths:
            print("nothing was lost")
            return 0
    started = time.monotonic()
    wanted = paths if arguments.paths else [str(ROOT / path) for path in paths]
    lines, code = drill(wanted, arguments.workers)
    lines = merged(before, lines, paths)
    show(lines)
    if not arguments.paths:
        known = result(lines, seconds + time.monotonic() - started)
        KEPT.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        PAGE.write_text(page(known), "utf-8")
    lost = sum(line.outcome == "lost" for line in lines)
    print(f"{len(lines)} tests, {lost} lost" if lost else f"{len(lines)} tests, nothing lost")
    return 1 if lost or code or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
