"""A classifier of transformers, from a config or from a checkpoint whose head is made new: what its families share.

Raises ParamsError for what transformers does not have or what cannot take the data, DataError for a checkpoint of
another kind. Nothing of a checkpoint is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data import Spec
from components.errors import DataError, ParamsError

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = {"num_labels", "id2label", "label2id"}


@dataclass(frozen=True)
class Kind:
    """What a family is of transformers' classifiers. Settings are keys of a config to their values."""

    auto: str  # transformers' class
    architectures: Callable[[], list[str]]  # model types
    inputs: str  # in words: "images"
    size: Callable[[Spec], str]  # in words
    remedy: str  # where a checkpoint cannot answer inputs of that size
    from_data: frozenset[str]  # keys that params may not say
    settings: Callable[[Any, Mapping[str, Any], Spec], dict[str, Any]]  # (the config as it comes, params', data)
    logits: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    example: Callable[[Spec], dict[str, Tensor]]  # two rows as the largest
    adopted: Callable[[str, Any, Mapping[str, Any], Spec], dict[str, Any]]
    """(which checkpoint, the config as it comes, its config.json, data): settings that stay the checkpoint's. Raises
    DataError where it cannot take our data."""


def build(kind: Kind, params: Any, spec: Spec) -> nn.Module:
    import transformers

    if params.checkpoint is not None:
        raise ParamsError(["model.checkpoint: a checkpoint is read by init alone; name it in init.model"])
    made = config(kind, params, spec)
    try:
        module: nn.Module = getattr(transformers, kind.auto).from_config(made, trust_remote_code=False)
    except Exception as error:  # each architecture has its own way to fail
        raise ParamsError([f"model.config: {params.architecture} cannot be built: {_short(error)}"]) from error
    try:
        _probe(kind, module, spec)
    except Exception as error:
        where = f"{params.architecture} cannot answer {kind.inputs} of {kind.size(spec)}"
        raise ParamsError([f"model.config: {where}: {_short(error)}"]) from error
    return module


def adopt(kind: Kind, folder: Path, params: Any, spec: Spec) -> tuple[Any, nn.Module]:
    """The weights of a checked checkpoint under a new head, and params that build the like of it without.

    The head stays if it has our classes already. Raises DataError for another task, model type or input.
    """
    import torch
    import transformers

    auto, where = getattr(transformers, kind.auto), f"checkpoint {params.checkpoint}"
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    name, known = str(raw.get("model_type")), kind.architectures()
    if name not in known:
        raise DataError(f"{where}: is a {name}, which classifies no {kind.inputs}; take one of: {', '.join(known)}")
    allowed = keys(kind, name)
    plain = {key: value for key, value in raw.items() if key in allowed}
    kept = kind.adopted(where, transformers.CONFIG_MAPPING[name](), raw, spec)
    made = type(params)(family=params.family, architecture=name, config=plain)
    ours = config(kind, made, spec, **kept)
    fresh: Any = auto.from_config(ours, trust_remote_code=False)
    try:
        loaded, report = auto.from_pretrained(
            folder,
            config=ours,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise DataError(f"{where}: cannot be loaded as {name}: {_short(error)}") from error
    backbone = f"{loaded.base_model_prefix}."
    differ = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    # A pooler belongs to the head: checkpoints of masked language models have none.
    if lost := sorted(key for key in differ if key.startswith(backbone) and ".pooler." not in key):
        raise DataError(f"{where}: its weights are not those of its config, for one {lost[0]}; save or fetch it again")
    if not all(bool(torch.isfinite(x).all()) for x in loaded.parameters()):
        raise DataError(f"{where}: has weights that are not finite; fetch it again")
    classes = [label for _, label in sorted(ours.id2label.items())]
    theirs = [label for _, label in sorted((raw.get("id2label") or {}).items(), key=lambda item: int(item[0]))]
    if differ or classes != theirs:
        weights = {k: x for k, x in loaded.base_model.state_dict().items() if f"{backbone}{k}" not in differ}
        fresh.base_model.load_state_dict(weights, strict=False)
        loaded = fresh
    try:
        _probe(kind, loaded, spec)
    except Exception as error:
        words = f"cannot answer {kind.inputs} of {kind.size(spec)}: {_short(error)}; {kind.remedy}"
        raise DataError(f"{where}: {words}") from error
    return made, loaded


def keys(kind: Kind, architecture: str) -> list[str]:
    """What `config` may say: the fields of the architecture's own config, less what the data say."""
    from dataclasses import fields

    from transformers import CONFIG_MAPPING, PreTrainedConfig

    common = {field.name for field in fields(PreTrainedConfig)}
    return sorted({field.name for field in fields(CONFIG_MAPPING[architecture])} - common - CLASSES - kind.from_data)


def config(kind: Kind, params: Any, spec: Spec, **more: Any) -> Any:
    """transformers' config for these params and data; `more` goes before both."""
    import transformers

    name, given, known = str(params.architecture), params.config or {}, kind.architectures()
    if name not in known:
        raise ParamsError([f"model.architecture: must be one of {', '.join(known)}, got {name!r}"])
    allowed = keys(kind, name)
    if errors := [
        f"model.config.{key}: comes from the data; remove it"
        if key in CLASSES | kind.from_data
        else f"model.config.{key}: unknown key; {name} has: {', '.join(allowed)}"
        for key in given
        if key not in allowed
    ]:
        raise ParamsError(errors)
    made = transformers.CONFIG_MAPPING[name]
    classes = {
        "id2label": dict(enumerate(spec.classes)),
        "label2id": {label: number for number, label in enumerate(spec.classes)},
    }
    settings = kind.settings(made(), given, spec)
    try:
        found = made(**{**given, **settings, **classes, **more})
    except Exception as error:  # each config checks itself in its own way
        raise ParamsError([f"model.config: {name} refuses it: {_short(error)}"]) from error
    classifier = getattr(transformers, kind.auto)._model_mapping[made]
    found.architectures = [(classifier[0] if isinstance(classifier, tuple) else classifier).__name__]
    return found


def _probe(kind: Kind, module: nn.Module, spec: Spec) -> None:
    """Answer two rows, before any training."""
    import torch

    with torch.no_grad():
        answer = kind.logits(module.eval(), kind.example(spec))
    module.train()
    if answer.shape != (2, len(spec.classes)):
        raise ValueError(f"it answers {tuple(answer.shape)}, not a number for each of {len(spec.classes)} classes")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def features(kind: Kind, module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the last linear layer is given; some architectures have their encoder behind their head."""
    from torch import nn

    seen: list[Tensor] = []
    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    inside = f"{module.base_model_prefix}."
    classifier = [layer for name, layer in linear.items() if not name.startswith(inside)][-1]
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        kind.logits(module, inputs)
    finally:
        hook.remove()
    return seen[0]


def load(kind: Kind, directory: Path) -> nn.Module:
    import torch
    import transformers

    module: nn.Module = getattr(transformers, kind.auto).from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return module
