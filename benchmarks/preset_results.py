"""Runs presets from a fresh clone to a champion, keeps their matrices, and writes docs/results.md from these.

python benchmarks/preset_results.py news fashion         # runs them: tens of minutes each, on a quiet machine
python benchmarks/preset_results.py --in FOLDER news     # in a clone that stays there: a second call goes on with it
python benchmarks/preset_results.py                      # writes docs/results.md anew from what is kept
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from components.report import markdown, words

KEPT = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/results.md"
HEAD = """# Results

Each table is one preset, run from a fresh clone by one command; benchmarks/preset_results.py wrote this page from the
matrices that it kept under benchmarks/results/. Accuracy is that of the test split, which nothing was chosen on.

Beside others: [training](../benchmarks/results/against_trainers.md) (Hugging Face Trainer, Lightning),
[INT8](../benchmarks/results/against_olive.md) (Olive); each of the presets' bases as they were on its date.
"""


def run(preset: str, folder: Path | None, shared: bool) -> None:
    """`temper run --preset` in a clone of the commit that is checked out, with this checkout's environment.

    The seconds are those of all calls in a clone that stays in `folder`.
    """
    with contextlib.ExitStack() as stack:
        clone = (folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))) / preset / "temper"
        if clone.exists():
            subprocess.run(["git", "pull", "-q", "--ff-only"], cwd=clone, check=True)
        else:
            subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        for name, target in ((clone / ".venv", ROOT / ".venv"), (clone.parent / "shared", ROOT.parent / "shared")):
            if target.exists() and not name.exists():
                name.symlink_to(target)
        before = clone.with_name("seconds")
        started = time.perf_counter() - (float(before.read_text("utf-8")) if before.exists() else 0)
        command = [str(clone / ".venv/bin/python"), "-m", "temper", "run", "--preset", preset]
        try:
            subprocess.run(command, cwd=clone, check=True)
        finally:
            seconds = round(time.perf_counter() - started)
            before.write_text(f"{seconds}\n", "utf-8")
        keep(preset, clone, seconds, shared)


def keep(preset: str, clone: Path, seconds: float, shared: bool) -> None:
    """What the last run of a preset in `clone` came to. `shared`: other work ran on the machine."""
    work = clone / ".temper/presets" / preset / "work"
    matrix = json.loads((work / "matrix/matrix.json").read_text("utf-8"))
    matrix["changed_rows"] = []  # they show rows of the data
    (KEPT / f"preset_{preset}.matrix.json").write_text(json.dumps(matrix, indent=2) + "\n", "utf-8")
    decided = json.loads((work / "decision/decision.json").read_text("utf-8"))
    winner = decided["winner"]["cell"] if decided["winner"] else None
    told = json.dumps({"seconds": seconds, "shared": shared, "winner": winner}, indent=2)
    (KEPT / f"preset_{preset}.json").write_text(told + "\n", "utf-8")


def against_eager(matrix: Mapping[str, Any]) -> list[str]:
    """A table of how each cell compares with the reference in PyTorch, the way published figures are told."""
    sizes = [str(size) for size in matrix["batch_sizes"]]
    base = words.reference_row(matrix)
    heads = [
        "cell",
        "smaller",
        "points",
        *(f"vs eager, batch {s}" for s in sizes),
        *(f"vs fp32, batch {s}" for s in sizes),
    ]
    lines = [markdown.line(heads), markdown.line(["---"] * len(heads))]
    for row in matrix["cells"]:
        if row["status"] != "ok" or not base:
            continue
        change = row["accuracy_difference"]
        cells = [
            f"`{row['cell']}`",
            f"{base['size_mb'] / row['size_mb']:.2f}x",
            "" if change is None else f"{100 * change:+.2f}",
            *(f"{row['speedup_eager'][size][0]:.2f}x" if size in row["speedup_eager"] else "" for size in sizes),
            *(f"{row['speedup'][size][0]:.2f}x" if size in row["speedup"] else "" for size in sizes),
        ]
        lines.append(markdown.line(cells))
    return lines


def took(told: Mapping[str, Any]) -> str:
    beside = ", with other work on the same cores while it trained" if told["shared"] else ""
    return f"took {told['seconds'] / 60:.1f} minutes{beside}"


def page() -> str:
    parts = [HEAD]
    for path in sorted(KEPT.glob("preset_*.matrix.json")):
        preset = path.name.removeprefix("preset_").removesuffix(".matrix.json")
        told = json.loads((KEPT / f"preset_{preset}.json").read_text("utf-8"))
        matrix = json.loads(path.read_text("utf-8"))
        parts += [
            markdown.page(matrix).replace("# ", "## ", 1),
            f"`temper run --preset {preset}` {took(told)}; champion: `{told['winner']}`.",
            "",
            f"Against {matrix['reference']}, in PyTorch eager and in ONNX Runtime, medians:",
            "",
            *against_eager(matrix),
            "",
        ]
    if len(parts) == 1:
        parts.append("No run is kept yet.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--in", dest="folder", type=Path, help="where the clones stay")
    parser.add_argument("--shared", action="store_true", help="other work runs on the machine: said with the minutes")
    given = parser.parse_args()
    for asked in given.presets:
        run(asked, given.folder and given.folder.resolve(), given.shared)
    PAGE.write_text(page(), "utf-8")
