"""matrix.json's published schema, matrix.schema.json: what a matrix must hold to be proof, and reading one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import TemperError

VERSION = 1  # raised when a reader of the version before could not read it
SCHEMA = Path(__file__).with_name("matrix.schema.json")


def check(matrix: Mapping[str, Any], where: str) -> None:
    """Raises TemperError with the first place that breaks the schema, e.g. a cell without n, interval or sha256."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    found = best_match(Draft202012Validator(json.loads(SCHEMA.read_text("utf-8"))).iter_errors(matrix))
    if found is not None:
        path = list(found.absolute_path)
        if path[:1] == ["cells"] and len(path) > 1:
            path[:2] = [str(matrix["cells"][path[1]].get("cell", path[1]))]
        place = ".".join(map(str, path)) or "the matrix"
        raise TemperError(f"{where}: {place}: {found.message[:300]}; {SCHEMA.name} says what a matrix holds")


def parse(text: str, where: str, remedy: str) -> dict[str, Any]:
    """The matrix in `text`. Raises TemperError for what is no matrix, or one of another schema version."""
    try:
        matrix = json.loads(text)
    except ValueError as error:
        raise TemperError(f"{where}: is no JSON: {error}; {remedy}") from None
    if not isinstance(matrix, dict) or "cells" not in matrix:
        raise TemperError(f"{where}: is no matrix: it has no cells; {remedy}")
    if (found := matrix.get("schema")) != VERSION:
        raise TemperError(f"{where}: has schema version {found or 'none'}, this Temper reads {VERSION}; {remedy}")
    return matrix


def read(path: Path, remedy: str) -> dict[str, Any]:
    """The matrix in a file; as `parse`."""
    if not path.exists():
        raise TemperError(f"{path}: there is no matrix yet; {remedy}")
    return parse(path.read_text("utf-8"), str(path), remedy)
