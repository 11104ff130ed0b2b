"""params.yaml as a whole: what single sections cannot see, and errors in the words of the file."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from components import redaction
from components.errors import ParamsError
from components.params import tree
from components.params.data import Prepare, Source, Task, Validate
from components.params.families import Init
from components.params.limits import Limits
from components.params.measure import Benchmark, Compare, Parity, Policy
from components.params.passes import Variant
from components.params.schedule import Retraining
from components.params.section import Name, Section
from components.params.targets import Target


class Params(Section):
    name: Name  # of the registered model
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    threads: Annotated[int, Field(ge=1, le=1024)]
    source: Source
    task: Task
    validate_: Validate = Field(alias="validate")
    prepare: Prepare
    init: Init
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    targets: Annotated[dict[Name, Target], Field(min_length=1)]
    parity: Parity
    benchmark: Benchmark
    compare: Compare
    policy: Policy
    limits: Limits | None = None
    schedule: Retraining | None = None


def _path(loc: tuple[int | str, ...], raw: Any) -> str:
    """The keys of the file that lead to an error: pydantic puts the tags of unions between them."""
    steps, node = [], raw
    for i, step in enumerate(loc):
        if isinstance(node, dict) and step not in node and i + 1 < len(loc):
            continue
        steps.append(str(step))
        with contextlib.suppress(KeyError, IndexError, TypeError):
            node = node[step]
    return ".".join(steps) or "params.yaml"


@cache
def _keys() -> list[str]:
    """Every key that some section has."""
    found: set[str] = set()
    sections = [Section]
    while sections:
        section = sections.pop()
        sections += section.__subclasses__()
        found |= {field.alias or name for name, field in section.model_fields.items()}
    return sorted(found)


def _hidden(got: Any) -> Any:
    """Without the password of an address."""
    return re.sub(r"//[^/@]*@", "//...@", got) if isinstance(got, str) else got


def _meant(error: Mapping[str, Any], missing: Sequence[tuple[int | str, ...]]) -> str | None:
    """The key that an unknown one may have been meant to be: one missing there, else one that may be left out."""
    *parent, key = error["loc"]
    wanted = [str(loc[-1]) for loc in missing if list(loc[:-1]) == parent]
    known = [] if str(key) in _keys() else _keys()  # unless it is itself right elsewhere
    meant = difflib.get_close_matches(str(key), wanted, 1) or difflib.get_close_matches(str(key), known, 1, 0.8)
    return meant[0] if meant else None


def _lines(found: Sequence[Mapping[str, Any]], raw: Any) -> list[str]:
    """One for each mistake; that a key is missing which was misspelt is none of its own."""
    missing = [tuple(item["loc"]) for item in found if item["type"] == "missing"]
    unknown = [item for item in found if item["type"] == "extra_forbidden"]
    misspelt = {(*item["loc"][:-1], _meant(item, missing)) for item in unknown}
    return [_describe(item, raw, missing) for item in found if tuple(item["loc"]) not in misspelt]


def _describe(error: Mapping[str, Any], raw: Any, missing: Sequence[tuple[int | str, ...]]) -> str:
    where = _path(error["loc"], raw)
    got = error.get("input")
    shown = "" if isinstance(got, dict | list) or error["type"] == "missing" else f", got {_hidden(got)!r:.80}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        meant = _meant(error, missing)
        return f"{where}: unknown key; " + (f"did you mean {meant}?" if meant else "remove it or correct its spelling")
    if error["type"] == "missing":
        return f"{where}: is missing; add it"
    if error["type"] == "union_tag_invalid":
        key = error["ctx"]["discriminator"].split("|")[-1].strip(" '")
        return f"{where}.{key}: must be one of {error['ctx']['expected_tags']}, got {error['ctx']['tag']!r:.80}"
    if error["type"] == "union_tag_not_found":
        key = error["ctx"]["discriminator"].split("|")[-1].strip(" '")
        return f"{where}.{key}: is missing; it says of which kind this is"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def check(raw: object) -> Params:
    """Params from parsed YAML. Raises ParamsError with every error, one a line."""
    if not isinstance(raw, dict):
        raise ParamsError(["params.yaml: must be a mapping of sections, got " + type(raw).__name__])
    if secret := list(_credentials(raw, (), set())):
        raise ParamsError(secret)
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(_lines(error.errors(include_url=False), raw)) from None
    if wrong := list(tree.errors(params)):
        raise ParamsError(wrong)
    return params


def _credentials(node: Any, where: tuple[str, ...], seen: set[int]) -> Iterator[str]:
    """An error for each address with credentials: params are committed, tracked and shown."""
    if isinstance(node, str) and redaction.has_credentials(node):
        told = "they come from the environment, or from DVC's local config"
        yield f"{'.'.join(where)}: must not hold credentials: {told}"
    if isinstance(node, dict | list) and id(node) not in seen:  # anchors may make it endless
        seen.add(id(node))
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _credentials(value, (*where, str(key)), seen)


def check_schedule(raw: object) -> Retraining | None:
    """The section `schedule` alone, of a file whose other sections may wait; None if it has none."""
    given = raw.get("schedule") if isinstance(raw, dict) else None
    if given is None:
        return None
    try:
        return Retraining.model_validate(given)
    except ValidationError as error:
        found = [{**item, "loc": ("schedule", *item["loc"])} for item in error.errors(include_url=False)]
        raise ParamsError(_lines(found, raw)) from None


MOST_VALUES = 100_000


def _unpacked(read: Any, path: Path) -> Any:
    """`read`, if it holds no more than settings would: a few aliases can repeat each other for ever."""
    todo, count = [read], 0
    while todo:
        node = todo.pop()
        count += 1
        if count + len(todo) > MOST_VALUES:
            raise ParamsError([f"{path}: its aliases unpack to more than {MOST_VALUES:,} values; write them out"])
        todo.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else [])
    return read


def read(path: Path) -> Any:
    """A params file as plain data.

    YAML 1.2, as DVC reads it; at most 1 MB and MOST_VALUES values, no duplicate keys, no tags.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError([f"{path}: cannot be read: {error}"]) from None
    if len(text) > 1_000_000:
        raise ParamsError([f"{path}: is larger than 1 MB; params are settings, put data into files"])
    try:
        return _unpacked(YAML(typ="safe", pure=True).load(text), path)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ParamsError([f"{path}: is not valid YAML: {' '.join(str(error).split())[:300]}"]) from None


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file."""
    return check(read(path))
