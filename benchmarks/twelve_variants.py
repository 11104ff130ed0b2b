"""Twelve variants that share prefixes against twelve separate runs; then what finding nothing to do costs.

One workspace holds all twelve variants, twelve others one variant each with what it grows from. Whole `temper run`
processes are timed, from empty workspaces. In the first, now finished, `dvc repro` and `temper run` on a running server
are then timed with nothing to do.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import results
from ruamel.yaml import YAML

from tests.workspace import BIN, Workspace

PORTS = {"PREFECT_PORT": "4271", "MLFLOW_PORT": "5071"}


def variants(epochs: int) -> dict[str, Any]:
    """base, and eleven that grow from it: LoRA, pruning and distillation, and chains of them."""
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))["variants"]

    def entry(like: str, parent: str, share: float, **changes: Any) -> dict[str, Any]:
        fit = {**raw[like]["fit"], "epochs": max(1, round(epochs * share))}
        return {**raw[like], "from": parent, "fit": fit, **changes}

    found = {"base": entry("base", "init", 1.0)}
    found |= {f"pruned{r}": entry("pruned", "base", 0.3, ratio=r / 100) for r in (25, 40, 50, 60)}
    found |= {f"lora{r}": entry("lora", "base", 0.2, rank=r) for r in (2, 8)}
    found |= {f"distilled{t}": entry("distilled", "base", 1.0, temperature=float(t)) for t in (2, 4)}
    found |= {f"compact{r}": entry("compact", "distilled2", 0.5, ratio=r / 100) for r in (30, 50, 70)}
    return found


def chain(all_: dict[str, Any], name: str) -> dict[str, Any]:
    names: list[str] = []
    while name != "init":
        names.insert(0, name)
        name = all_[name]["from"]
    return {name: all_[name] for name in names}


def fresh(folder: Path, chosen: dict[str, Any]) -> tuple[Workspace, float]:
    """(a workspace with these variants, run once; seconds of that run)."""
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    targets = {name: target for name, target in raw["targets"].items() if target["kind"] != "tensorrt"}
    workspace = Workspace(folder)
    workspace.write_params({"init": raw["init"], "variants": chosen, "targets": targets})
    workspace.commit()
    started = time.monotonic()
    workspace(str(BIN / "temper"), "run")
    return workspace, time.monotonic() - started


def nothing(workspace: Workspace, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Seconds of a run that finds all up to date: dvc repro, and temper run on standing servers."""
    environment = {**os.environ, **PORTS, "PATH": f"{BIN}:{os.environ['PATH']}"}
    script = subprocess.Popen(
        [ROOT / "infra/servers.sh", folder / "servers"], env=environment, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert script.stdout
        address = script.stdout.readline().removeprefix("export ").strip().split("=", 1)[1]
        found: dict[str, list[float]] = {"dvc repro": [], "temper run on a running server": []}
        for number in range(repeats + 1):
            for way in found:
                server = {"PREFECT_API_URL": address} if way.endswith("server") else {}
                started = time.monotonic()
                workspace(*way.split()[:2], code=0, **server)
                if number:  # the first of each may still have to learn something
                    found[way].append(time.monotonic() - started)
    finally:
        script.send_signal(signal.SIGTERM)
        script.wait(30)
    aims = {"dvc repro": 2.5, "temper run on a running server": 4.0}
    return [
        {"nothing to do": way, "variants": 12, "runs": len(s), "median s": statistics.median(s), "least s": min(s),
         "aim s": aims[way]}
        for way, s in found.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="of base; the others in proportion")
    parser.add_argument("--repeats", type=int, default=5, help="of the runs with nothing to do")
    parser.add_argument("--only-nothing", action="store_true", help="leave out the twelve separate runs")
    arguments = parser.parse_args()
    all_ = variants(arguments.epochs)
    with tempfile.TemporaryDirectory() as scratch:
        together, shared_s = fresh(Path(scratch) / "together", all_)
        print(f"twelve variants in one run: {shared_s:.0f} s", file=sys.stderr, flush=True)
        idle = nothing(together, arguments.repeats, Path(scratch))
        print(results.write("no_op", "A run that finds nothing to do", idle, ["Whole processes, in turn."]))
        if arguments.only_nothing:
            return
        separate = {}
        for name in all_:
            separate[name] = fresh(Path(scratch) / name, chain(all_, name))[1]
            print(f"{name} by itself: {separate[name]:.0f} s", file=sys.stderr, flush=True)
    total = sum(separate.values())
    lines: list[dict[str, Any]] = [
        {"twelve variants": "separate runs, added up", "s": total, "share": 1.0},
        {"twelve variants": "one run that shares prefixes", "s": shared_s, "share": shared_s / total},
    ]
    notes = [f"base trains {arguments.epochs} epochs, the others in proportion", "aim: a share of at most 0.55"]
    print(results.write("twelve_variants", "Twelve variants, shared or separate", lines, notes))


if __name__ == "__main__":
    main()
