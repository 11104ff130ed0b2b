"""A preset's data and untrained model, as its stages make them, in a folder: what benchmarks train on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components.host import QUIET


class Absent(Exception):
    """The preset's data are not on this machine."""


def params_of(preset: str, root: Path) -> Any:
    """The checked params of `temper run --preset`. Raises Absent where they would be fetched from the hub."""
    from components import params
    from flows import overlay

    found = params.check(YAML(typ="safe").load(overlay.merged(root, root, preset)))
    if found.source.kind == "hub":
        raise Absent(f"{preset}: its data are not in ../shared/data")
    return found


def make(preset: str, root: Path, folder: Path) -> Any:
    """Write data/ (prepared) and init/ below `folder`, once; returns the params."""
    os.environ.update(QUIET)
    found = params_of(preset, root)
    if (folder / "made").exists():
        return found
    from components import ingest, init, prepare, validate
    from components.sources import SOURCES

    for name in ("raw", "valid", "data", "init"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    corpus = found.prepare.corpus
    for name, source in (("source", found.source), ("corpus", corpus.source if corpus else None)):
        identity = SOURCES[source.kind].observe(source, None)[0] if source else None
        (folder / f"{name}.json").write_text(json.dumps(identity), "utf-8")
    (folder / "checkpoint.json").write_text("null", "utf-8")
    ingest.run(found.source, found.prepare, folder / "source.json", folder / "corpus.json", folder / "raw")
    validate.run(found.task, found.validate_, folder / "raw", folder / "valid")
    files = folder / "valid", folder / "checkpoint.json", folder / "raw"
    prepare.run(found.task, found.prepare, *files, folder / "data")
    init.run(
        found.init, found.seed, found.threads,
        spec=folder / "data/spec.json", checkpoint=folder / "checkpoint.json", out=folder / "init",
    )  # fmt: skip
    (folder / "made").touch()
    return found
