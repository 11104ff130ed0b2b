"""Any image classifier of transformers, from a config or from a checkpoint whose head is made new.

Reloads without Temper: `AutoModelForImageClassification.from_pretrained(directory)`. LoRA takes every linear layer
and every convolution that is not grouped. Pruning leaves widths that most configs cannot say; it can for resnet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import pretrained
from components.data import Spec
from components.errors import DataError, TrainingError
from components.params import TransformersImage

if TYPE_CHECKING:
    from torch import Tensor, nn

NEEDS_OTHERS = {"timm_wrapper", "imagegpt", "perceiver", "shieldgemma2"}  # a library, tokens or text beside the image


def build(params: TransformersImage, spec: Spec) -> nn.Module:
    """Raises ParamsError for what transformers does not have, or what cannot take the data's images."""
    return pretrained.build(KIND, params, spec)


def adopt(folder: Path, params: TransformersImage, spec: Spec) -> tuple[TransformersImage, nn.Module]:
    """The weights of a checked checkpoint under a new head, and params that build the like of it without.

    The head stays if it has our classes already. Raises DataError for another task, model type or image.
    """
    return pretrained.adopt(KIND, folder, params, spec)


def architectures() -> list[str]:
    """Model types of transformers that classify images."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES

    return sorted(set(NAMES) - NEEDS_OTHERS)


def _settings(comes: Any, given: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    size = spec.shape[0] if spec.shape[0] == spec.shape[1] else tuple(spec.shape[:2])
    return {k: x for k, x in {"num_channels": _channels(spec), "image_size": size}.items() if hasattr(comes, k)}


def _adopted(where: str, comes: Any, raw: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    takes, channels = raw.get("num_channels", getattr(comes, "num_channels", None)), _channels(spec)
    if takes is not None and takes != channels:
        raise DataError(f"{where}: takes images with {takes} channels, task.shape has {channels}; convert the images")
    return {key: raw[key] for key in ("image_size",) if key in raw}


def _channels(spec: Spec) -> int:
    return spec.shape[2] if len(spec.shape) == 3 else 1


def _black(spec: Spec) -> dict[str, Tensor]:
    import torch

    return {"pixel_values": torch.zeros(2, _channels(spec), *spec.shape[:2])}


def logits(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    result: Tensor = module(pixel_values=inputs["pixel_values"]).logits
    return result


KIND = pretrained.Kind(
    auto="AutoModelForImageClassification",
    architectures=architectures,
    inputs="images",
    size=lambda spec: str(spec.shape),
    remedy="resize the images",
    from_data=frozenset({"num_channels", "image_size"}),
    settings=_settings,
    adopted=_adopted,
    logits=logits,
    example=_black,
)


def features(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the last linear layer is given."""
    return pretrained.features(KIND, module, inputs)


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
    return pretrained.load(KIND, directory)
