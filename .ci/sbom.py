#!/usr/bin/env python3
"""Print the locked packages that this environment has as a CycloneDX bill of materials (1.5, JSON)."""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def licence(of: metadata.PackageMetadata) -> list[dict[str, Any]]:
    expression = of.get("License-Expression")
    if expression:
        return [{"expression": expression}]
    named = [c.rpartition(" :: ")[2] for c in of.get_all("Classifier", []) if c.startswith("License :: ")]
    return [{"license": {"name": name}} for name in named[:1]]


def components(locks: list[Path]) -> list[dict[str, Any]]:
    """Each pin that is installed here, with the hashes of the files that it may come from."""
    found = []
    for entry in re.split(r"(?m)^(?=\w)", "\n".join(path.read_text("utf-8") for path in locks)):
        pin = re.match(r"([\w.-]+)==([\w.!+-]+)", entry)
        if pin is None:
            continue
        try:
            here = metadata.metadata(pin[1])
        except metadata.PackageNotFoundError:
            continue  # of another system, Python or build of PyTorch
        component = {"type": "library", "name": pin[1], "version": here["Version"], "licenses": licence(here)}
        component["purl"] = component["bom-ref"] = f"pkg:pypi/{pin[1]}@{here['Version'].replace('+', '%2B')}"
        hashes = sorted(re.findall(r"sha256:(\w{64})", entry))
        component["properties"] = [{"name": "temper:locked-sha256", "value": sha256} for sha256 in hashes]
        found.append(component)
    return found


if __name__ == "__main__":
    own = {"type": "application", "name": "temper", "version": metadata.version("temper"), "bom-ref": "temper"}
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": own}}
    bom["components"] = components(sorted(Path().glob("requirements*.lock")))
    json.dump(bom, sys.stdout, indent=1)
