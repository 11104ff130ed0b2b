"""The one door for what lies outside the workspace; runs every time, so it imports nothing heavy.

source.json, corpus.json, checkpoint.json, host.json, champion.json, attempts.json and code.json are what other stages
depend on, so each changes only when its news matter. stat.json, corpus_stat.json, checkpoint_stat.json and inputs.json
are this stage's own memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from components import checkpoint, failures, host, move, signing
from components.errors import DataError
from components.hashing import code_sha256, fingerprint, sha256_file
from components.sources import SOURCES
from components.targets import TARGETS

WORK = Path("work")
NO_CHAMPION = dict.fromkeys(("version", "digest", "model", "source", "data_sha256", "metrics", "rolled_back"))


def run(
    name: str,
    source: Mapping[str, Any],
    prepare: Mapping[str, Any],
    init: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]],
    targets: Mapping[str, Mapping[str, Any]],
    policy: Mapping[str, Any],
    out: Path,
    previous: Path | None,
) -> dict[str, float]:
    """Takes its params as plain data: building the typed ones takes longer than all of this."""

    signing.configured(policy.get("signing") or {})  # a key that cannot be used is told before work starts

    def earlier(file: str) -> Any:
        path = previous / file if previous else None
        return json.loads(path.read_text("utf-8")) if path and path.exists() else None

    identity, stat = SOURCES[source["kind"]].observe(SimpleNamespace(**source), earlier("stat.json"))
    corpus, corpus_stat = unlabelled(prepare["corpus"], earlier("corpus_stat.json"))
    pretrained, checkpoint_stat = checkpoint.observe(init["model"], earlier("checkpoint_stat.json"))
    observed: dict[str, Any] = {
        "source.json": identity,
        "corpus.json": corpus,
        "checkpoint.json": pretrained,
        "host.json": host.describe(),
        "attempts.json": attempts(variants, targets, failures.found(), earlier("attempts.json") or {}),
        "code.json": {
            "variants": {variant: family_files(variant, variants, init) for variant in variants},
            "targets": shas(f"components/targets/{target['kind']}.py" for target in targets.values()),
            "runtimes": shas(
                f"components/runtimes/{TARGETS[target['kind']].RUNTIME}.py" for target in targets.values()
            ),
        },
    }
    inputs = {
        **{file: fingerprint(value) for file, value in observed.items()},
        "params.yaml": sha256_file(Path("params.yaml")),
        "dvc.yaml": sha256_file(Path("dvc.yaml")),
        "components": code_sha256(),
    }
    observed["champion.json"] = champion(name, earlier("champion.json"), inputs == earlier("inputs.json"))
    for file, value in {
        **observed,
        "stat.json": stat,
        "corpus_stat.json": corpus_stat,
        "checkpoint_stat.json": checkpoint_stat,
        "inputs.json": inputs,
    }.items():
        (out / file).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
    return {}


def unlabelled(corpus: Mapping[str, Any] | None, earlier: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """What identifies prepare.corpus, None without one; stats to give back as `earlier`."""
    if corpus is None:
        return None, {}
    source = corpus["source"]
    try:
        return SOURCES[source["kind"]].observe(SimpleNamespace(**source), earlier)
    except DataError as error:
        raise DataError(f"prepare.corpus: {error}") from None


def champion(name: str, earlier: dict[str, Any] | None, same_inputs: bool) -> dict[str, Any]:
    """The champion that this run is to be compared with.

    While nothing else has changed, a champion that this workspace's own decision named is no news: the one
    of before stays, or every promotion would wake `champion`, `compare` and `decide` once more. Once
    something has changed, and after a rollback or a promotion from elsewhere, it is what the registry says.
    """
    current = move.current(name)
    if current is None:
        return NO_CHAMPION | {"rolled_back": move.out(name) or None}
    if earlier and same_inputs and current.digest and current.digest == decided_digest():
        return earlier
    row = json.loads(current.tags.get("matrix_row", "{}"))
    return {
        "version": current.version,
        "digest": current.digest,
        "model": name,
        "source": current.source,
        "data_sha256": current.tags.get("data.sha256"),
        "metrics": {key: row.get(key) for key in ("accuracy", "worst_class_accuracy", "latency_ms", "size_mb")},
        "rolled_back": move.out(name),
    }


def decided_digest() -> str | None:
    path = WORK / "decision" / "decision.json"
    winner = json.loads(path.read_text("utf-8"))["winner"] if path.exists() else None
    return winner["digest"] if winner else None


def attempts(
    variants: Mapping[str, Any],
    targets: Mapping[str, Any],
    failed: Mapping[str, Collection[str]],
    earlier: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> dict[str, dict[str, dict[str, int]]]:
    """How often each cell was seen to have failed, by stage and variant: a new count wakes that stage.

    None falls, or success would wake it too.
    """

    def count(stage: str, variant: str) -> dict[str, int]:
        before = earlier.get(stage, {}).get(variant, {})
        seen = {target: before.get(target, 0) + (f"{variant}/{target}" in failed[stage]) for target in targets}
        return {target: times for target, times in seen.items() if times}

    return {stage: {variant: count(stage, variant) for variant in variants} for stage in failures.STAGES}


def family_files(
    variant: str, variants: Mapping[str, Mapping[str, Any]], init: Mapping[str, Any]
) -> dict[str, str | None]:
    """Family files that a variant computes with: its own and, if it learns from its parent, its parent's."""

    def family(at: str) -> str:
        while at != "init":
            if "model" in variants[at]:
                return str(variants[at]["model"]["family"])
            at = variants[at]["from"]
        return str(init["model"]["family"])

    return shas(f"components/families/{family(at)}.py" for at in (variant, variants[variant]["from"]))


def shas(paths: Any) -> dict[str, str | None]:
    return {path: sha256_file(Path(path)) if Path(path).exists() else None for path in paths}
