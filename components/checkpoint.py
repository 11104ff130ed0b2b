"""A pretrained checkpoint: which one it is, whether it may be read, where it lies. Nothing in one is ever executed.

A folder here, or a repository of the Hugging Face hub. Only config.json, safetensors and the tokenizer's files of JSON
and text are read of it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.hashing import sha256_file, sha256_known

WEIGHTS = (".safetensors", ".safetensors.index.json")
# A tokenizer: one file of all, or what transformers makes that of.
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
# Keys of a config.json that would bring in code, or weights that are none: custom classes, kernels, quantizers.
FOREIGN = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "quantization_config")
MEGABYTE = 1_000_000


def is_local(checkpoint: str) -> bool:
    return checkpoint.startswith((".", "/")) or Path(checkpoint).is_dir()


def observe(model: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, Any]:
    """What identifies the checkpoint that a `model` section names, None without one; stats to give back as `earlier`.

    Raises DataError if it cannot be reached: a fault of the network must not pass for "unchanged".
    """
    name, revision = model.get("checkpoint"), model.get("revision")
    if name is None:
        return None, {}
    if not is_local(name):
        return {"checkpoint": name, "commit": revision or _commit(name)}, {}
    found = {path.name: sha256_known(path, (earlier or {}).get(path.name)) for path in _read(Path(name))}
    files = {file: sha256 for file, (sha256, _) in found.items()}
    return {"checkpoint": name, "files": files}, {file: stat for file, (_, stat) in found.items()}


def fetch(identity: Mapping[str, Any]) -> Path:
    """The folder of the observed checkpoint, brought here if it is on the hub. Raises DataError if it is refused."""
    name = identity["checkpoint"]
    if "files" in identity:
        folder = Path(name)
        check_names([path.name for path in folder.rglob("*") if path.is_file()], name)
        if {path.name: sha256_file(path) for path in _read(folder)} != identity["files"]:
            raise DataError(f"checkpoint {name}: was changed after it was observed; run again")
    else:
        from huggingface_hub import HfApi, snapshot_download

        with _online(name):
            check_names(HfApi().list_repo_files(name, revision=identity["commit"]), name)
            wanted = ["config.json", *TOKENIZER, *(f"*{suffix}" for suffix in WEIGHTS)]
            folder = Path(snapshot_download(name, revision=identity["commit"], allow_patterns=wanted))
    check_config(folder, name)
    if (folder / "tokenizer_config.json").exists():
        check_config(folder, name, "tokenizer_config.json")
    check_weights(folder, name)
    return folder


def _read(folder: Path) -> list[Path]:
    """The files of a checkpoint that decide what is loaded."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(
            f"checkpoint {folder}: cannot be read: {error.strerror}; correct init.model.checkpoint"
        ) from None
    return [path for path in files if path.name in ("config.json", *TOKENIZER) or path.name.endswith(WEIGHTS)]


def _commit(name: str) -> str:
    from huggingface_hub import HfApi

    with _online(name):
        return str(HfApi().model_info(name, timeout=30).sha)


@contextlib.contextmanager
def _online(name: str) -> Iterator[None]:
    """Reach the hub, which is off everywhere else; its faults become DataError."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    where = f"checkpoint {name}"
    try:
        yield
    except DataError:
        raise
    except (RepositoryNotFoundError, HFValidationError):
        raise DataError(
            f"{where}: is neither a folder here nor a repository of the hub that may be read; correct "
            "init.model.checkpoint, or log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise DataError(f"{where}: has no such revision; correct init.model.revision") from None
    except Exception as error:  # whatever it is, nobody knows now what the checkpoint is
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{where}: the hub cannot be reached: {reason}; try again, or name a folder") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse by its files a checkpoint with code, without safetensors or without a config."""
    names = sorted(names)
    if code := [name for name in names if name.endswith((".py", ".so", ".dll"))]:
        raise DataError(
            f"checkpoint {where}: brings code ({', '.join(code[:3])}), which is never run; take one of an architecture "
            "that transformers has itself, or, if its config and weights do without, remove the code"
        )
    if "adapter_config.json" in names:
        raise DataError(f"checkpoint {where}: is an adapter without its base; merge it into the base and save that")
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if name.endswith(PICKLES)]
        raise DataError(
            f"checkpoint {where}: its weights ({', '.join(pickles[:3])}) can run code when they are read; convert them "
            "to safetensors: load and save_pretrained() it where that does no harm"
            if pickles
            else f"checkpoint {where}: has no *.safetensors; name the folder that save_pretrained() wrote"
        )
    if "config.json" not in names:
        raise DataError(f"checkpoint {where}: has no config.json; name the folder that save_pretrained() wrote")


def check_config(folder: Path, where: str, file: str = "config.json") -> None:
    """Refuse a config that is damaged, or asks for code or quantized weights."""
    path = folder / file
    try:
        if path.stat().st_size > MEGABYTE:
            raise DataError(f"checkpoint {where}: {file} is larger than 1 MB; it is no config")
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"checkpoint {where}: {file} cannot be read: {error}; save or fetch it again") from None
    if not isinstance(config, dict):
        raise DataError(f"checkpoint {where}: {file} must be a mapping, got {type(config).__name__}")
    todo: list[Any] = [config]
    while todo:
        node = todo.pop()
        for key in FOREIGN:
            if isinstance(node, dict) and node.get(key) is not None:
                raise DataError(
                    f"checkpoint {where}: {file} has {key}, which would bring in code or weights in another form; "
                    "take a plain checkpoint of an architecture that transformers has itself"
                )
        todo.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else [])


def check_weights(folder: Path, where: str) -> None:
    """Refuse damaged safetensors, by their headers, and an index that names files elsewhere or absent."""
    from safetensors import SafetensorError, safe_open

    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "np") as file:
                file.keys()
        except (SafetensorError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:100]
            raise DataError(f"checkpoint {where}: {path.name} is damaged ({reason}); save or fetch it again") from None
    for path in folder.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(path.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"checkpoint {where}: {path.name} is damaged; save or fetch it again") from None
        for shard in sorted(map(str, shards)):
            if not re.fullmatch(r"[\w.-]+\.safetensors", shard) or not (folder / shard).is_file():
                raise DataError(f"checkpoint {where}: {path.name} names {shard!r}, which is not there; fetch it again")
