"""How far two builds, or two models, lie apart: for a build that was made again and is not bit-equal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import TemperError
from components.hashing import sha256_file

Arrays = Mapping[str, np.ndarray]


def builds(original: Path, rebuilt: Path) -> list[str]:
    """What differs in what ships, a line a file; empty if it is bit-equal."""
    return [
        f"{name}: {words}"
        for name in sorted(_ships(original) | _ships(rebuilt))
        if (words := files(original / name, rebuilt / name))
    ]


def _ships(folder: Path) -> set[str]:
    """The files of a build by the names they have in a registered model, where records of the making do not ship."""
    known = {json.loads((folder / "build.json").read_text("utf-8"))["file"], "build.json", "tokenizer.json"}
    return {name for name in known if (folder / name).exists()}


def files(original: Path, rebuilt: Path) -> str:
    """In which way two files differ; empty if they have the same bytes."""
    if missing := [which for which, path in (("original", original), ("rebuilt", rebuilt)) if not path.exists()]:
        return f"only one of the two has it, the {missing[0]} has not"
    if sha256_file(original) == sha256_file(rebuilt):
        return ""
    try:
        if original.suffix == ".json":
            return _json(json.loads(original.read_text("utf-8")), json.loads(rebuilt.read_text("utf-8")))
        if original.suffix in (".onnx", ".safetensors"):
            return weights(_arrays(original), _arrays(rebuilt))
    except (OSError, ValueError) as error:
        return f"other bytes, and cannot be compared: {' '.join(str(error).split())[:200]}"
    return f"other bytes: sha256 {sha256_file(original)[:12]} and {sha256_file(rebuilt)[:12]}"


def weights(original: Arrays, rebuilt: Arrays) -> str:
    """The largest absolute difference of an element, of all arrays that both have, and where it is."""
    odd = sorted(set(original) ^ set(rebuilt))
    same = [name for name in original if name in rebuilt]
    reshaped = [name for name in same if original[name].shape != rebuilt[name].shape]
    apart = {
        name: float(np.abs(original[name].astype(np.float64) - rebuilt[name].astype(np.float64)).max(initial=0.0))
        for name in same
        if name not in reshaped and original[name].dtype.kind in "fiub"
    }
    told = []
    if odd:
        told.append(f"{len(odd)} weights are in one of the two only, {odd[0]} first")
    if reshaped:
        name = reshaped[0]
        told.append(f"{name} has the shape {original[name].shape}, made again {rebuilt[name].shape}")
    if apart and (most := max(apart.values())) > 0:
        where = max(apart, key=lambda name: apart[name])
        differ = sum(value > 0 for value in apart.values())
        told.append(f"{differ} of {len(same)} weights differ, by {most:.3g} at most (in {where})")
    return "; ".join(told) or "all weights are equal, other parts of the file differ"


def _arrays(path: Path) -> Arrays:
    """The weights in a model file, by name."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    import onnx
    from onnx import numpy_helper

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise ValueError(f"is no ONNX file: {error}") from error
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _json(original: Any, rebuilt: Any) -> str:
    differ = list(_keys(original, rebuilt, ""))
    return f"differs in {', '.join(differ[:5])}" + (f" and {len(differ) - 5} more" if len(differ) > 5 else "")


def _keys(one: Any, other: Any, at: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(set(one) | set(other)):
            yield from _keys(one.get(key), other.get(key), f"{at}.{key}" if at else key)
    elif one != other:
        yield at or "its content"


def logits(original: Path, rebuilt: Path, data: Path, threads: int) -> str:
    """The largest absolute difference of a logit on the test rows of `data`, and how many answers it changes."""
    from components import answers, runtime
    from components.data import Spec, read_rows

    rows = read_rows(data, "test", Spec.read(data))
    try:
        one, other = (answers.ask(runtime.open_build(folder, threads), rows) for folder in (original, rebuilt))
    except (TemperError, ValueError) as error:
        return f"not compared: {error}"
    if one.logits.shape != other.logits.shape:
        return f"not compared: {one.logits.shape[1]} classes, made again {other.logits.shape[1]}"
    most = float(np.abs(one.logits - other.logits).max(initial=0.0))
    changed = int((one.predictions != other.predictions).sum())
    return f"{most:.3g} at most on {len(rows)} test rows, of which {changed} are answered otherwise"
