"""promote: applies the decision. Registers the winning build and moves the alias `champion` to it.

Not a cached result: safe to repeat, quick when there is nothing to do. Order makes it safe to kill: the files, the
version (with its digest), the proof that it answers, the alias `challenger`, the journal's line, the other aliases; the
next call goes on where this one stopped. `dvc repro`'s last stage, the flow and `temper promote` all call `apply`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import contents, failures, keeping, move, package, record, registry, remote, smoke, tracking, versions
from components.errors import TemperError
from components.hashing import fingerprint, sha256_file, sha256_tree
from components.tracking import patiently

log = logging.getLogger("temper")

NO_LICENCE = (
    "No licence was declared for this model: put a file LICENSE beside params.yaml before promoting.\n"
    "Whoever owns the training data and the model decides how it may be used.\n"
)


def run(
    name: str, decision: Path, builds: Path, engines: Path, predictions: Path, matrix: Path, data: Path
) -> dict[str, float]:
    """Ends with an error if a cell failed: the run is red, though what could be decided was."""
    decided = json.loads((decision / "decision.json").read_text("utf-8"))
    status = "FAILED"
    try:
        log.info("%s", patiently(lambda: apply(name, decided, builds, engines, predictions, matrix, data)))
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
    predictions: Path,
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
    only = "dry run" if dry_run else only_records()
    if not only and (finished := move.finish(name)):
        log.info("%s", finished)
    winner = decision["winner"]
    if winner is None:
        return "nothing to do: no cell meets the policy" + (
            f"; nearest: {decision['nearest_miss']['cell']}" if decision.get("nearest_miss") else ""
        )
    if done := keeping.nothing_to_do(name, winner, data, again):
        return done
    if only:
        if not dry_run:
            EXPERIMENT.parent.mkdir(parents=True, exist_ok=True)
            EXPERIMENT.write_text(json.dumps({"name": only, "decision": fingerprint(decision)}) + "\n", "utf-8")
        return (
            f"{only}: would make {winner['cell']} ({winner['digest'][:12]}) the champion of {name}; nothing was moved"
        )
    if not by_hand and (left := _of_experiment(decision)):
        return left
    evidence = _evidence(decision, matrix)
    if push := decision.get("policy", {}).get("push"):
        remote.before_promotion(push)
    with tracking.lock("registry"):
        # Asked again: another workspace may have promoted while this one waited.
        if done := keeping.nothing_to_do(name, winner, data, again):
            return done
        current, based_on = registry.registered(name).aliases.get("champion"), decision["champion"].get("version")
        if current != based_on:
            raise move.stale(name, current, based_on)
        known = _whole(name, winner["digest"])
        number = known.version if known else _register(name, winner, builds, engines, matrix, data)
        cell = Path(winner["variant"], winner["target"])
        evidence |= smoke.challenger(name, number, predictions / cell, data)
        move.champion(name, number, based_on, "promote", decision.get("reason", ""), evidence)
    return f"version {number} of {name} is the champion now: {winner['cell']}, before it {move.called(based_on)}"


def _whole(name: str, digest: str) -> registry.Version | None:
    """The version with this build, unless its files were damaged or cannot be had: then it is registered anew."""
    if (known := registry.with_digest(name, digest)) is None:
        return None
    try:
        with package.verified(name, known.version):
            return known
    except TemperError as error:
        log.warning("%s; the build is registered once more", error)
        return None


def _evidence(decision: Mapping[str, Any], matrix: Path) -> dict[str, Any]:
    """What the journal keeps of why. Raises TemperError for a decision that does not bear out its winner."""
    file, cell = matrix / "matrix.json", decision["winner"]["cell"]
    sha256 = sha256_file(file)
    if decision.get("matrix_sha256") != sha256:
        raise TemperError(f"the decision was not made of {file} as it is now; `dvc repro decide` decides anew")
    if not decision["cells"].get(cell, {}).get("feasible"):
        raise TemperError(
            f"the decision names {cell}, which by its own words does not meet the policy: it was changed by hand; "
            f"`dvc repro decide` decides anew"
        )
    return {
        **decision["winner"],
        "matrix_sha256": sha256,
        "decision_sha256": hashlib.sha256((json.dumps(decision, indent=2) + "\n").encode()).hexdigest(),
        "data_sha256": json.loads(file.read_text("utf-8")).get("data_sha256"),
        "pipeline_run": record.pipeline_run(),
    }


def _register(name: str, winner: Mapping[str, Any], builds: Path, engines: Path, matrix: Path, data: Path) -> int:
    """Store the build as a model that answers raw inputs, and register it; returns the version's number."""
    from components import card, runtime, signing
    from components.data import TOKENIZER

    keys = signing.configured()
    if keys.required and keys.private is None:
        raise TemperError(
            "policy.signing.required: is true, but no private key is given, so what wins cannot be promoted; set "
            "TEMPER_SIGNING_KEY, or make a pair with `temper key`"
        )

    folder = builds / winner["variant"] / winner["target"]
    if not (folder / "build.json").exists():
        folder = engines / winner["variant"] / winner["target"]
    found = runtime.digest(folder)
    if found != winner["digest"]:
        raise TemperError(
            f"{folder}: holds {found[:12]}, the decision names {winner['digest'][:12]}: files were changed after "
            f"they were measured; run the pipeline again"
        )
    build = json.loads((folder / "build.json").read_text("utf-8"))
    if build["runtime"] != "onnxruntime":
        raise TemperError(
            f"{winner['cell']}: a {build['runtime']} build cannot be registered yet, since the loader that ships with "
            f"a model answers with ONNX Runtime only; set policy.bounds or targets so that another cell wins"
        )
    measured = json.loads((matrix / "matrix.json").read_text("utf-8"))
    row = next(cell for cell in measured["cells"] if cell["cell"] == winner["cell"])
    run = record.pipeline_run()
    provenance = record.Provenance.read(record.ROOT / run) or record.Provenance.now(Path.cwd())
    tags = {
        "digest": winner["digest"],
        **{key: winner[key] for key in ("cell", "variant", "target")},
        "pipeline_run": run,
        "data.sha256": sha256_tree(data),
        "matrix_row": json.dumps(row, sort_keys=True),
        **provenance.tags,
        **record.kept_commit(),  # made of params.yaml and dvc.lock as they are now
        **record.dvc_lock(Path.cwd()),
    }
    licence = next((path for path in (Path("LICENSE"), Path("LICENSE.txt"), Path("LICENSE.md")) if path.exists()), None)
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        # Copies with fixed names: the model folder shall look the same whichever cell won.
        parts = {"model": Path(scratch, build["file"]), "build": Path(scratch, "build.json")}
        shutil.copyfile(folder / build["file"], parts["model"])
        shutil.copyfile(folder / "build.json", parts["build"])
        if build["spec"]["vocabulary"]:
            parts["tokenizer"] = Path(scratch, TOKENIZER)
            shutil.copyfile(folder / TOKENIZER, parts["tokenizer"])
        parts["card"], parts["licence"] = Path(scratch, "CARD.md"), Path(scratch, "LICENSE")
        owned = licence.read_text("utf-8") if licence else NO_LICENCE
        parts["licence"].write_text(owned, "utf-8")
        told = card.page(name, row, measured, build["spec"], provenance.settings, tags, data, owned)
        parts["card"].write_text(told, "utf-8")
        return versions.register(
            name, contents.LOADER, parts, build["spec"], tags, matrix / "matrix.json", lambda to: package.seal(to, keys)
        )
