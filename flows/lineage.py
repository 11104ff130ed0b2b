"""What a registered version is from, step by step: its tags, the commit that they name, DVC's cache, the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import journal, objects, registry
from components.errors import TemperError
from flows import snapshot
from flows.clone import RAW

Facts = dict[str, str]


@dataclass(frozen=True)
class Step:
    """One thing that a version was made from or through. `kind` says what it is, `title` which one."""

    kind: str
    title: str
    facts: Facts


@dataclass(frozen=True)
class Move:
    """One move of the alias `champion` that had to do with the version."""

    time: str
    words: str
    who: str


@dataclass(frozen=True)
class Lineage:
    """`steps` from the source to the version, each made from the one before it."""

    model: str
    version: int
    steps: list[Step]
    aliases: list[str]
    moves: list[Move]
    notes: list[str] = field(default_factory=list)  # what is not known, and why


def trace(version: registry.Version, name: str, workspace: Path) -> Lineage:
    """Never fails for want of a commit or an object: what is not known is said in the notes."""
    notes: list[str] = []
    tags, row = version.tags, _json(version.tags.get("matrix_row", "{}"))
    params, lock, committed = _commit(tags, workspace, notes)
    manifest = _manifest(lock, workspace, notes)
    steps = [
        _source(params, manifest),
        _data(tags, lock, manifest, params),
        *_variants(tags, lock, params),
        _build(tags, row),
        _row(tags, row),
        Step("version", f"{name} version {version.version}", _version(version, committed)),
    ]
    aliases = sorted(alias for alias, number in registry.registered(name).aliases.items() if number == version.version)
    return Lineage(name, version.version, steps, aliases, _moves(name, version.version), notes)


def _json(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _commit(
    tags: Mapping[str, str], workspace: Path, notes: list[str]
) -> tuple[dict[str, Any], dict[str, dict[str, str]], str]:
    """(params.yaml, hashes of dvc.lock, time) of the version's commit; empty where that is not to be had."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    commit = tags.get("git.commit")
    if not commit:
        notes.append("made outside of git: of its params only their hash is known")
        return {}, {}, ""
    try:
        params = YAML(typ="safe", pure=True).load(snapshot.git("show", f"{commit}:./params.yaml", cwd=workspace))
        when = snapshot.git(
            "show", "-s", "--format=%cd", "--date=format-local:%Y-%m-%d %H:%M %z", commit, cwd=workspace
        )
    except (TemperError, OSError, YAMLError) as error:
        notes.append(f"commit {commit[:12]} cannot be read here: {' '.join(str(error).split())[:160]}")
        return {}, {}, ""
    if tags.get("git.dirty") != "false":
        notes.append(f"the tree differed from commit {commit[:12]}: params and hashes below are that commit's")
    try:
        text = snapshot.git("show", f"{commit}:./dvc.lock", cwd=workspace)
    except TemperError:
        notes.append(f"commit {commit[:12]} has no dvc.lock, so the hashes of data and models are not known")
        return params, {}, when
    return params, objects.locked(text), when


def _manifest(lock: Mapping[str, Mapping[str, str]], workspace: Path, notes: list[str]) -> dict[str, Any]:
    oid = lock.get("ingest", {}).get(RAW)
    if oid is None:
        return {}
    try:
        return _json(objects.read(objects.cache(workspace), oid, "manifest.json").decode())
    except TemperError as error:
        notes.append(f"what the source was is not known: {error}")
        return {}


def _source(params: Mapping[str, Any], manifest: Mapping[str, Any]) -> Step:
    identity = manifest.get("source") or params.get("source") or {}
    title = " ".join(str(identity[key]) for key in ("kind", "dataset", "path", "repository") if key in identity)
    return Step("source", title or "not known", _told(identity, "kind", "dataset", "path", "repository"))


def _data(
    tags: Mapping[str, str],
    lock: Mapping[str, Mapping[str, str]],
    manifest: Mapping[str, Any],
    params: Mapping[str, Any],
) -> Step:
    raw = lock.get("ingest", {}).get(RAW, "")
    facts = {
        "rows": f"{manifest['rows']:,}" if isinstance(manifest.get("rows"), int) else "",
        "sha256 of data.parquet": str(manifest.get("sha256", "")),
        "corpus": _words(manifest.get("corpus")),
        "raw, in DVC": raw,
        "prepared, in DVC": lock.get("prepare", {}).get("work/data/prepared", ""),
        "sha256 prepared": tags.get("data.sha256", ""),
        "split": _words((params.get("prepare") or {}).get("split")),
    }
    return Step("data version", (raw or tags.get("data.sha256", "not known"))[:12], _full(facts))


def _variants(tags: Mapping[str, str], lock: Mapping[str, Mapping[str, str]], params: Mapping[str, Any]) -> list[Step]:
    """From `init` to the version's variant."""
    variants, at = params.get("variants") or {}, tags.get("variant", "")
    chain: list[Step] = []
    while at in variants and len(chain) < len(variants):
        entry = variants[at]
        facts = {
            "made from": str(entry.get("from", "")),
            "params": _words({key: value for key, value in entry.items() if key not in ("from", "pass", "fit")}),
            "fit": _words(entry.get("fit")),
            "in DVC": lock.get(f"make@{at}", {}).get(f"work/models/{at}", ""),
        }
        chain.append(Step("variant", f"{at}: {entry.get('pass', '')}", _full(facts)))
        at = str(entry.get("from", ""))
    if not chain:
        return [Step("variant", tags.get("variant", "not known"), {})]
    model = (params.get("init") or {}).get("model") or {}
    facts = {
        "model": _words({key: value for key, value in model.items() if key != "family"}),
        "seed": str(params.get("seed", "")),
        "in DVC": lock.get("init", {}).get("work/models/init", ""),
    }
    return [Step("variant", f"init: {model.get('family', '')}", _full(facts)), *reversed(chain)]


def _build(tags: Mapping[str, str], row: Mapping[str, Any]) -> Step:
    kernels = row.get("certificate") or {}
    facts = {
        "kind": str(row.get("kind", "")),
        "digest": tags.get("digest", ""),
        "sha256 of the model file": str(row.get("sha256") or ""),
        "size": f"{row['size_mb']:.3f} MB" if isinstance(row.get("size_mb"), int | float) else "",
        "in integer kernels": _words({k: v for k, v in kernels.items() if isinstance(v, int | float)}),
    }
    return Step("build", tags.get("cell", "not known"), _full(facts))


def _row(tags: Mapping[str, str], row: Mapping[str, Any]) -> Step:
    def number(key: str) -> str:
        return f"{row[key]:.4f}" if isinstance(row.get(key), int | float) else ""

    difference = f"{row['accuracy_difference']:+.4f}" if row.get("accuracy_difference") is not None else ""
    if difference and row.get("accuracy_low") is not None:
        difference += f" [{row['accuracy_low']:+.4f}, {row['accuracy_high']:+.4f}]"
    latencies = (row.get("latency_ms") or {}).items()
    speedups = (row.get("speedup") or {}).items()
    facts = {
        "accuracy": number("accuracy"),
        "of the worst class": number("worst_class_accuracy"),
        "against the reference": f"{difference} {row.get('verdict') or ''}".strip(),
        "test rows": str(row.get("rows") or ""),
        "latency": ", ".join(f"batch {size}: {value:.4g} ms" for size, value in latencies),
        "times as fast": ", ".join(f"batch {size}: {times[0]:.2f}" for size, times in speedups if times),
        "whole matrix": tags.get("matrix", ""),
    }
    return Step("matrix row", tags.get("cell", "not known"), _full(facts))


def _version(version: registry.Version, committed: str) -> Facts:
    tags = version.tags
    dirty = {"true": "no: it differed from the commit", "false": "yes"}.get(tags.get("git.dirty", ""), "")
    head = tags.get("git.head", "")
    differed = {"true": ", with changes that the kept commit holds", "false": ""}.get(
        tags.get("git.head_dirty", ""), ""
    )
    return _full(
        {
            "commit": tags.get("git.commit", ""),
            "committed": committed,
            "holds all that ran": dirty,
            "the user's commit": f"{head}{differed}" if head else "",
            "pipeline run": tags.get("pipeline_run", ""),
            "host": tags.get("host", ""),
            "Python": tags.get("python", ""),
            "params, sha256": tags.get("params.sha256", ""),
            "dvc.lock, sha256": tags.get("dvc_lock.sha256", ""),
            "constraints.txt, sha256": tags.get("constraints.sha256", ""),
            "files": version.source,
        }
    )


def _moves(name: str, number: int) -> list[Move]:
    moves = []
    for line in journal.read().of(name):
        if number not in (line.before, line.to):
            continue
        before = "none" if line.before is None else f"version {line.before}"
        reason = f"; {line.fields['reason']}" if line.fields.get("reason") else ""
        who = "@".join(str(line.fields[key]) for key in ("who", "host") if line.fields.get(key))
        moves.append(Move(line.time, f"{line.action}: champion from {before} to version {line.to}{reason}", who))
    return moves


def _words(values: Any) -> str:
    """Nested mappings on one line."""
    if isinstance(values, Mapping):
        return ", ".join(
            f"{key} ({_words(value)})" if isinstance(value, Mapping) else f"{key} {_words(value)}"
            for key, value in values.items()
        )
    if isinstance(values, float):
        return f"{values:g}"
    if isinstance(values, list):
        return "[" + ", ".join(map(_words, values[:12])) + (", ...]" if len(values) > 12 else "]")
    return "" if values is None else str(values)


def _told(identity: Mapping[str, Any], *titles: str) -> Facts:
    return _full({key: _words(value) for key, value in identity.items() if key not in titles})


def _full(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if value}
