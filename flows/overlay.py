"""Presets: presets/<name>.yaml laid over params.yaml."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import params
from components.errors import ParamsError
from components.params.section import NAME

FOLDER = Path("presets")
WHOLE = ("source", "task", "init", "variants", "targets")
OWN = ("schedule",)
RULE = (
    "source, task, init, variants and targets replace those of params.yaml as a whole if given; "
    "every other section merges key by key, where lists and plain values replace; a schedule is each file's own"
)


def names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml") if re.fullmatch(NAME, path.stem))


def find(root: Path, name: str) -> Path:
    """The preset's file. Raises ParamsError that names those there are."""
    path = root / FOLDER / f"{name}.yaml"
    if not re.fullmatch(NAME, name) or not path.is_file():
        known = ", ".join(names(root)) or f"none yet; write {FOLDER}/<name>.yaml"
        raise ParamsError([f"{FOLDER}/{name}.yaml: there is no such preset; there are: {known}"])
    return path


def merge(below: Any, above: Any) -> Any:
    """Mappings key by key; anything else replaces."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: merge(below[key], value) if key in below else value for key, value in above.items()}}


def overlay(base: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """See RULE."""
    below = {key: value for key, value in base.items() if key not in OWN}
    return {**below, **{key: value if key in WHOLE else merge(below.get(key), value) for key, value in preset.items()}}


def choose_source(given: Any, main: Path, where: str = "source") -> Any:
    """The first source whose data are there, its path made absolute; what is no source at all is left to the check."""
    candidates = given if isinstance(given, list) else [given]
    looked = []
    for source in candidates:
        path = source.get("path") if isinstance(source, Mapping) else None
        dataset = source.get("dataset") if path is None and isinstance(source, Mapping) else None
        if isinstance(dataset, str) and "\0" not in dataset and (main / dataset).is_dir():  # else its id on the hub
            return {**source, "dataset": str((main / dataset).resolve())}
        if not isinstance(path, str) or "\0" in path:
            return source
        absolute = (main / Path(path).expanduser()).resolve()
        if absolute.exists():
            return {**source, "path": str(absolute)}
        looked.append(str(absolute))
    if not looked:
        raise ParamsError([f"{where}: must be a source or a list of them, got an empty list"])
    raise ParamsError(
        [f"{where}: no data are there, looked for {', '.join(looked)}; put them there or correct the path"]
    )


def find_checkpoint(init: Any, main: Path) -> Any:
    """`init` with the path of a local checkpoint made absolute; a name on the hub stays."""
    model = init.get("model") if isinstance(init, Mapping) else None
    if not isinstance(model, Mapping):
        return init
    given = model.get("checkpoint")
    if not isinstance(given, str) or "\0" in given:
        return init
    folder = (main / given).resolve()
    if not (given.startswith(".") or folder.is_dir()):
        return init
    return {**init, "model": {**model, "checkpoint": str(folder)}}


def merged(root: Path, main: Path, name: str) -> str:
    """The text of the params.yaml that the preset makes, checked.

    Paths of sources and checkpoints are taken from `main`. Raises ParamsError whose every line names the preset's file.
    """
    path = find(root, name)
    base = params.read(root / "params.yaml")
    preset = params.read(path)
    try:
        if not isinstance(preset, dict) or not isinstance(base, dict):
            raise ParamsError(["must be a mapping of sections, laid over those of params.yaml"])
        whole = overlay(base, preset)
        if "source" in preset or "source" in base:
            whole["source"] = choose_source(whole["source"], main)
        prepare = whole.get("prepare")
        if isinstance(prepare, Mapping) and isinstance(corpus := prepare.get("corpus"), Mapping):
            found = choose_source(corpus.get("source"), main, "prepare.corpus.source")
            whole["prepare"] = {**prepare, "corpus": {**corpus, "source": found}}
        if "init" in whole:
            whole["init"] = find_checkpoint(whole["init"], main)
        _own_name(root, name, base, preset)
        params.check(whole)
    except ParamsError as error:
        raise ParamsError([f"{FOLDER}/{name}.yaml: {line}" for line in error.errors]) from None
    return f"# Made by temper from params.yaml and {FOLDER}/{name}.yaml: edit those, not this.\n" + _yaml(whole)


def _own_name(root: Path, name: str, base: Mapping[str, Any], preset: Mapping[str, Any]) -> None:
    """Two presets with one registered model would take each other's champion away."""
    if preset.get("name") is None:
        raise ParamsError(["name: is missing; a preset names its own registered model"])
    taken = {str(base.get("name")): "params.yaml"}
    for other in names(root):
        if other != name:
            try:
                said = params.read(root / FOLDER / f"{other}.yaml")
            except ParamsError:  # told when that preset is run
                continue
            if isinstance(said, dict):
                taken[str(said.get("name"))] = f"{FOLDER}/{other}.yaml"
    if owner := taken.get(str(preset["name"])):
        raise ParamsError([f"name: {preset['name']!r} is that of {owner}; choose another"])


def _yaml(values: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.default_flow_style = None
    yaml.allow_unicode = True
    yaml.width = 120
    out = io.StringIO()
    yaml.dump(dict(values), out)
    return out.getvalue()
