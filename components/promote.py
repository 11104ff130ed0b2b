"""promote: applies the decision. Registers the winning build and moves the alias `champion` to it.

Not a cached result: safe to repeat, quick when there is nothing to do. Order makes it safe to kill: the files,
the version (with its digest), the journal's line aside, the alias, the mark that a decision put it there, the
journal; the next call goes on where this one stopped. `dvc repro`'s last stage, the flow and `temper promote`
all call `apply`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import failures, record, registry, tracking
from components.errors import TemperError
from components.hashing import fingerprint, sha256_tree

log = logging.getLogger("temper")

LOADER = Path(__file__).with_name("loader.py")
NO_LICENCE = (
    "No licence was declared for this model: put a file LICENSE beside params.yaml before promoting.\n"
    "Whoever owns the training data and the model decides how it may be used.\n"
)


def run(name: str, decision: Path, builds: Path, engines: Path, matrix: Path, data: Path) -> dict[str, float]:
    """Ends with an error if a cell failed: the run is red, though what could be decided was."""
    decided = json.loads((decision / "decision.json").read_text("utf-8"))
    status = "FAILED"
    try:
        log.info("%s", apply(name, decided, builds, engines, matrix, data))
        if decided["failed"]:
            raise TemperError(f"{len(decided['failed'])} failed: {_causes(decided['failed'], matrix)}")
        status = "FINISHED"
    finally:
        if "TEMPER_RUN" not in os.environ:
            tracking.close(record.pipeline_run(), status)
    return {}


def _causes(cells: list[str], matrix: Path) -> str:
    """Of each failed cell the stage and the file that says why."""
    found = failures.found()
    causes = []
    for cell in cells:
        where = [f"in {stage}, see {failed[cell]}" for stage, failed in found.items() if cell in failed]
        causes.append(f"{cell} {' and '.join(where)}" if where else f"{cell}, see {matrix / 'matrix.json'}")
    return "; ".join(causes) + ("; the next run tries these stages again" if any(found.values()) else "")


def only_records() -> str | None:
    """Why the registry must not move, or None."""
    if os.environ.get("DVC_EXP_NAME") or os.environ.get("DVC_EXP_BASELINE_REV"):
        return f"experiment {os.environ.get('DVC_EXP_NAME', '')}".strip()
    return "dry run" if os.environ.get("TEMPER_DRY_RUN") else None


EXPERIMENT = Path(".temper/experiment.json")  # the last experiment's name and decision


def _of_experiment(decision: Mapping[str, Any]) -> str | None:
    """`dvc exp run` leaves its results in the workspace: the run after it must not promote them unasked."""
    if not EXPERIMENT.exists():
        return None
    last = json.loads(EXPERIMENT.read_text("utf-8"))
    if last["decision"] != fingerprint(decision):
        return None
    return (
        f"nothing was moved: this decision is that of {last['name']}, whose results are in this workspace; "
        f"`temper promote` promotes it, `git restore params.yaml` and a run bring back what was"
    )


def apply(
    name: str,
    decision: Mapping[str, Any],
    builds: Path,
    engines: Path,
    matrix: Path,
    data: Path,
    dry_run: bool = False,
    again: bool = False,
    by_hand: bool = False,
) -> str:
    """Do what the decision says; returns what was done, in one line.

    `again` promotes even what was rolled back, `by_hand` even what an experiment left in the workspace.

    Raises TemperError if the champion is not the one that the decision was made against.
    """
    tracking.drain()
    if _aside().exists():
        with tracking.lock("registry"):
            _finish_journal()
    winner = decision["winner"]
    if winner is None:
        return "nothing to do: no cell meets the policy" + (
            f"; nearest: {decision['nearest_miss']['cell']}" if decision.get("nearest_miss") else ""
        )
    if done := _nothing_to_do(name, winner, again):
        return done
    only = "dry run" if dry_run else only_records()
    if only:
        if not dry_run:
            EXPERIMENT.parent.mkdir(parents=True, exist_ok=True)
            EXPERIMENT.write_text(json.dumps({"name": only, "decision": fingerprint(decision)}) + "\n", "utf-8")
        return (
            f"{only}: would make {winner['cell']} ({winner['digest'][:12]}) the champion of {name}; nothing was moved"
        )
    if not by_hand and (left := _of_experiment(decision)):
        return left
    with tracking.lock("registry"):
        _finish_journal()
        # Asked again: another workspace may have promoted while this one waited.
        if done := _nothing_to_do(name, winner, again):
            return done
        current = registry.champion(name)
        based_on = decision["champion"].get("version")
        if (current.version if current else None) != based_on and not (current and current.digest == winner["digest"]):
            raise TemperError(
                f"the champion of {name} is {_called(current.version if current else None)}, but this decision was "
                f"made against {_called(based_on)}: something else was promoted meanwhile; run the pipeline again "
                f"to compare with it"
            )
        version = registry.with_digest(name, winner["digest"])
        number = version.version if version else _register(name, winner, builds, engines, matrix, data)
        if current is None or current.version != number:
            _begin_journal(name, number, current, winner)
        tracking.move_alias(name, number, current.version if current else None)
        _finish_journal()
    return f"version {number} of {name} is the champion now: {winner['cell']}, before it {_called(based_on)}"


def _nothing_to_do(name: str, winner: Mapping[str, Any], again: bool) -> str | None:
    registered = registry.registered(name)
    number = registered.aliases.get("champion")
    current = registry.version(name, number) if number is not None else None
    if current is None:
        return None
    # A mark below the alias: killed between the two, so go on. Above it: somebody went back to this one.
    if current.digest == winner["digest"] and (registered.promoted or 0) >= current.version:
        return f"nothing to do: {winner['cell']} is version {current.version} of {name}, the champion"
    last = registered.promoted
    if not again and last is not None and last > current.version:
        gone = registry.version(name, last)
        if gone and gone.digest == winner["digest"]:
            return (
                f"nothing to do: {winner['cell']} is version {last} of {name}, which was rolled back to "
                f"version {current.version}; `temper promote --again` brings it back"
            )
    return None


def _called(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def _register(name: str, winner: Mapping[str, Any], builds: Path, engines: Path, matrix: Path, data: Path) -> int:
    """Store the build as a model that answers raw inputs, and register it; returns the version's number."""
    from components import runtime
    from components.data import TOKENIZER

    folder = builds / winner["variant"] / winner["target"]
    if not (folder / "build.json").exists():
        folder = engines / winner["variant"] / winner["target"]
    found = runtime.digest(folder)
    if found != winner["digest"]:
        raise TemperError(
            f"{folder}: holds {found[:12]}, the decision names {winner['digest'][:12]}: files were changed after "
            f"they were measured; run the pipeline again"
        )
    card = json.loads((folder / "build.json").read_text("utf-8"))
    if card["runtime"] != "onnxruntime":
        raise TemperError(
            f"{winner['cell']}: a {card['runtime']} build cannot be registered yet, since the loader that ships with "
            f"a model answers with ONNX Runtime only; set policy.bounds or targets so that another cell wins"
        )
    measured = json.loads((matrix / "matrix.json").read_text("utf-8"))
    row = next(cell for cell in measured["cells"] if cell["cell"] == winner["cell"])
    run = record.pipeline_run()
    tags = {
        "digest": winner["digest"],
        **{key: winner[key] for key in ("cell", "variant", "target")},
        "pipeline_run": run,
        "data.sha256": sha256_tree(data),
        "matrix_row": json.dumps(row, sort_keys=True),
        **(record.Provenance.read(record.ROOT / run) or record.Provenance.now(Path.cwd())).tags,
        **record.kept_commit(),  # made of params.yaml and dvc.lock as they are now
        **record.dvc_lock(Path.cwd()),
    }
    licence = next((path for path in (Path("LICENSE"), Path("LICENSE.txt"), Path("LICENSE.md")) if path.exists()), None)
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        # Copies with fixed names: the model folder shall look the same whichever cell won.
        parts = {"model": Path(scratch, card["file"]), "build": Path(scratch, "build.json")}
        shutil.copyfile(folder / card["file"], parts["model"])
        shutil.copyfile(folder / "build.json", parts["build"])
        if card["spec"]["vocabulary"]:
            parts["tokenizer"] = Path(scratch, TOKENIZER)
            shutil.copyfile(folder / TOKENIZER, parts["tokenizer"])
        asked = "texts" if card["spec"]["vocabulary"] else "images"
        parts["card"], parts["licence"] = Path(scratch, "CARD.md"), Path(scratch, "LICENSE")
        parts["card"].write_text(model_card(name, row, measured, tags, asked), "utf-8")
        parts["licence"].write_text(licence.read_text("utf-8") if licence else NO_LICENCE, "utf-8")
        return tracking.register(name, LOADER, parts, card["spec"], tags, matrix / "matrix.json")


def model_card(
    name: str, row: Mapping[str, Any], matrix: Mapping[str, Any], tags: Mapping[str, str], asked: str
) -> str:
    """Markdown: what it is, what was measured and where, how to ask it (`asked`: texts or images), where it is from."""

    def interval(low: float | None, high: float | None) -> str:
        return f" (95 % interval {low:+.4f} to {high:+.4f})" if low is not None and high is not None else ""

    difference = row.get("accuracy_difference")
    lines = [
        f"# {name}: {row['cell']}",
        "",
        f"Variant `{row['variant']}` (pass `{row['pass']}`), target `{row['target']}` ({row['kind']}), "
        f"{row['parameters']:,} parameters, {row['size_mb']:.3f} MB.",
        "",
        "## Measured",
        f"On {matrix['test_rows']} test rows that training never saw.",
        "",
        f"- accuracy {row['accuracy']:.4f}, of the worst class {row['worst_class_accuracy']:.4f}",
        f"- calibration error (ECE) {row['ece']:.4f}"
        if row.get("ece") is not None
        else "- calibration error: not measured",
    ]
    if difference is not None:
        bounds = interval(row.get("accuracy_low"), row.get("accuracy_high"))
        lines.append(f"- against {matrix['reference']}: {difference:+.4f}{bounds}, verdict: {row['verdict']}")
    for size, latency in sorted(row["latency_ms"].items(), key=lambda item: int(item[0])):
        speed = (row.get("speedup") or {}).get(size)
        times = f", {speed[0]:.2f} times as fast as {matrix['reference']}" if speed else ""
        lines.append(f"- batch {size}: {latency:.4g} ms{times}")
    lines += [
        "",
        "## Ask it",
        "```python",
        f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
        f"model.predict({asked})  # as they are; class names",
        f'model.predict({asked}, params={{"output": "probabilities"}})',
        "```",
        "",
        "## Where it comes from",
        *(f"- {key}: `{value}`" for key, value in sorted(tags.items()) if key != "matrix_row"),
        "",
    ]
    return "\n".join(lines)


def _aside() -> Path:
    """The journal's next line, from before the alias moves until it is journalled."""
    return registry.mlruns() / "promoting.json"


def _begin_journal(name: str, number: int, before: registry.Version | None, winner: Mapping[str, Any]) -> None:
    """Say who is about to move the champion, when, from, to, on what evidence; the caller holds the lock."""
    import getpass
    import socket

    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "who": getpass.getuser(),
        "host": socket.gethostname(),
        "model": name,
        "from": before.version if before else None,
        "to": number,
        "evidence": {**winner, "pipeline_run": record.pipeline_run()},
    }
    unfinished = _aside().with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(line) + "\n", "utf-8")
    unfinished.replace(_aside())


def _finish_journal() -> None:
    """Append what was begun to mlruns/promotions.jsonl if the champion did move; the caller holds the lock."""
    aside, journal = _aside(), registry.mlruns() / "promotions.jsonl"
    if not aside.exists():
        return
    text = aside.read_text("utf-8")
    line = json.loads(text)
    journalled = journal.read_text("utf-8").splitlines(keepends=True)[-1:] if journal.exists() else []
    if registry.registered(line["model"]).aliases.get("champion") == line["to"] and journalled != [text]:
        with journal.open("a", encoding="utf-8") as file:
            file.write(text)
    aside.unlink()
