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
    identity, _ = SOURCES[found.source.kind].observe(found.source, None)
    (folder / "source.json").write_text(json.dumps(identity), "utf-8")
    (folder / "checkpoint.json").write_text("null", "utf-8")
    ingest.run(found.source, folder / "source.json", folder / "raw")
    validate.run(found.task, found.validate_, folder / "raw", folder / "valid")
    prepare.run(found.task, found.prepare, folder / "valid", folder / "checkpoint.json", folder / "data")
    init.run(
        found.init, found.seed, found.threads,
        spec=folder / "data/spec.json", checkpoint=folder / "checkpoint.json", out=folder / "init",
    )  # fmt: skip
    (folder / "made").touch()
    return found
