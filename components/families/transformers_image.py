"""Any image classifier of transformers, from a config or from a checkpoint whose head is made new.

Reloads without Temper: `AutoModelForImageClassification.from_pretrained(directory)`. LoRA takes every linear layer
and every convolution that is not grouped. Pruning leaves widths that most configs cannot say; it can for resnet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data import Spec
from components.errors import DataError, ParamsError, TrainingError
from components.params import TransformersImage

if TYPE_CHECKING:
    from torch import Tensor, nn

FROM_DATA = {"num_channels", "image_size", "num_labels", "id2label", "label2id"}
NEEDS_OTHERS = {"timm_wrapper", "imagegpt", "perceiver", "shieldgemma2"}  # a library, tokens or text beside the image


def build(params: TransformersImage, spec: Spec) -> nn.Module:
    """Raises ParamsError for what transformers does not have, or what cannot take the data's images."""
    from transformers import AutoModelForImageClassification

    if params.checkpoint is not None:
        raise ParamsError(["model.checkpoint: a checkpoint is read by init alone; name it in init.model"])
    config = _config(params, spec)
    try:
        module: nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except Exception as error:  # each architecture has its own way to fail
        raise ParamsError([f"model.config: {params.architecture} cannot be built: {_short(error)}"]) from error
    try:
        _probe(module, spec)
    except Exception as error:
        raise ParamsError(
            [f"model.config: {params.architecture} cannot answer images of {spec.shape}: {_short(error)}"]
        ) from error
    return module


def adopt(folder: Path, params: TransformersImage, spec: Spec) -> tuple[TransformersImage, nn.Module]:
    """The weights of a checked checkpoint under a new head, and params that build the like of it without.

    The head stays if it has our classes already. Raises DataError for another task, model type or image.
    """
    import torch
    from transformers import AutoModelForImageClassification

    where = f"checkpoint {params.checkpoint}"
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    kind = str(raw.get("model_type"))
    if kind not in architectures():
        raise DataError(f"{where}: is a {kind}, which classifies no images; take one of: {', '.join(architectures())}")
    allowed = keys(kind)
    plain = {key: value for key, value in raw.items() if key in allowed}
    made = TransformersImage(family="transformers_image", architecture=kind, config=plain)
    config = _config(made, spec, **{key: raw[key] for key in ("image_size",) if key in raw})
    takes, channels = raw.get("num_channels", getattr(type(config)(), "num_channels", None)), _channels(spec)
    if takes is not None and takes != channels:
        raise DataError(f"{where}: takes images with {takes} channels, task.shape has {channels}; convert the images")
    fresh: Any = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    try:
        loaded, report = AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise DataError(f"{where}: cannot be loaded as {kind}: {_short(error)}") from error
    backbone = f"{loaded.base_model_prefix}."
    differ = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if lost := sorted(key for key in differ if key.startswith(backbone)):
        raise DataError(f"{where}: its weights are not those of its config, for one {lost[0]}; save or fetch it again")
    if not all(bool(torch.isfinite(x).all()) for x in loaded.parameters()):
        raise DataError(f"{where}: has weights that are not finite; fetch it again")
    ours = [name for _, name in sorted(config.id2label.items())]
    theirs = [name for _, name in sorted((raw.get("id2label") or {}).items(), key=lambda item: int(item[0]))]
    if differ or ours != theirs:
        fresh.base_model.load_state_dict(loaded.base_model.state_dict())
        loaded = fresh
    try:
        _probe(loaded, spec)
    except Exception as error:
        raise DataError(f"{where}: cannot answer images of {spec.shape}: {_short(error)}; resize the images") from error
    return made, loaded


def architectures() -> list[str]:
    """Model types of transformers that classify images."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES

    return sorted(set(NAMES) - NEEDS_OTHERS)


def keys(architecture: str) -> list[str]:
    """What `config` may say: the fields of the architecture's own config, less what the data say."""
    from dataclasses import fields

    from transformers import CONFIG_MAPPING, PreTrainedConfig

    common = {field.name for field in fields(PreTrainedConfig)}
    return sorted({field.name for field in fields(CONFIG_MAPPING[architecture])} - common - FROM_DATA)


def _config(params: TransformersImage, spec: Spec, **more: Any) -> Any:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES

    name, given = str(params.architecture), params.config or {}
    if name not in architectures():
        raise ParamsError([f"model.architecture: must be one of {', '.join(architectures())}, got {name!r}"])
    allowed = keys(name)
    if errors := [
        f"model.config.{key}: comes from the data; remove it"
        if key in FROM_DATA
        else f"model.config.{key}: unknown key; {name} has: {', '.join(allowed)}"
        for key in given
        if key not in allowed
    ]:
        raise ParamsError(errors)
    made = CONFIG_MAPPING[name]
    from_data = {
        "num_channels": _channels(spec),
        "image_size": spec.shape[0] if spec.shape[0] == spec.shape[1] else tuple(spec.shape[:2]),
    }
    known = {key: value for key, value in from_data.items() if hasattr(made(), key)}
    classes = {
        "id2label": dict(enumerate(spec.classes)),
        "label2id": {label: number for number, label in enumerate(spec.classes)},
    }
    try:
        config = made(**{**given, **known, **classes, **more})
    except Exception as error:  # each config checks itself in its own way
        raise ParamsError([f"model.config: {name} refuses it: {_short(error)}"]) from error
    classifier = NAMES[name]
    config.architectures = [classifier if isinstance(classifier, str) else classifier[0]]
    return config


def _channels(spec: Spec) -> int:
    return spec.shape[2] if len(spec.shape) == 3 else 1


def _probe(module: nn.Module, spec: Spec) -> None:
    """Answer two black images, before any training."""
    import torch

    with torch.no_grad():
        answer = logits(module.eval(), {"pixel_values": torch.zeros(2, _channels(spec), *spec.shape[:2])})
    module.train()
    if answer.shape != (2, len(spec.classes)):
        raise ValueError(f"it answers {tuple(answer.shape)}, not a number for each of {len(spec.classes)} classes")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def logits(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    result: Tensor = module(pixel_values=inputs["pixel_values"]).logits
    return result


def features(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the last linear layer is given."""
    from torch import nn

    seen: list[Tensor] = []
    classifier = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        logits(module, inputs)
    finally:
        hook.remove()
    return seen[0]


def lora_targets(module: nn.Module) -> list[str]:
    """Linear layers and convolutions; not grouped ones, a group of which has less rank than the update."""
    from torch import nn

    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    ]


def prunable(module: Any) -> Sequence[nn.Module]:
    from torch import nn

    if module.config.model_type != "resnet":
        raise TrainingError(
            f"family transformers_image: the config of {module.config.model_type} has no words for the widths that "
            "pruning leaves, so that it could not be built again; prune an architecture resnet, or family resnet or vit"
        )
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def pruned(module: Any, params: TransformersImage) -> TransformersImage:
    import torch
    from transformers import AutoModelForImageClassification

    stages = module.resnet.encoder.stages
    module.config.embedding_size = module.resnet.embedder.embedder.convolution.out_channels
    module.config.hidden_sizes = [stage.layers[-1].layer[-1].convolution.out_channels for stage in stages]
    with torch.device("meta"):
        again = AutoModelForImageClassification.from_config(module.config)
    if {k: x.shape for k, x in again.state_dict().items()} != {k: x.shape for k, x in module.state_dict().items()}:
        raise TrainingError(
            f"pruning left widths that a config of resnet cannot say (stages {module.config.hidden_sizes}); choose "
            "variants' ratio and round_to so that they keep a like share of every layer, or take family resnet"
        )
    widths = {"embedding_size": module.config.embedding_size, "hidden_sizes": module.config.hidden_sizes}
    return params.model_copy(update={"config": {**(params.config or {}), **widths}})


def save(module: nn.Module, directory: Path) -> None:
    module.save_pretrained(directory)  # type: ignore[operator]


def load(directory: Path, params: TransformersImage, spec: Spec) -> nn.Module:
    import torch
    from transformers import AutoModelForImageClassification

    module: nn.Module = AutoModelForImageClassification.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return module
