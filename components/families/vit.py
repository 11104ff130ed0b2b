"""Vision transformer (Dosovitskiy et al., arXiv 2010.11929): transformers' ViTForImageClassification from a config.

Reloads without Temper: `ViTForImageClassification.from_pretrained(directory)`, pruned or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data import Spec
from components.params import Vit

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(params: Vit, spec: Spec) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    height, width, *channels = spec.shape
    config = ViTConfig(
        image_size=(height, width),
        patch_size=params.patch_size,
        num_channels=channels[0] if channels else 1,
        hidden_size=params.hidden_size,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        head_dim=params.head_dim,
        intermediate_size=params.intermediate_size,
        hidden_dropout_prob=params.dropout,
        attention_probs_dropout_prob=params.dropout,
        id2label=dict(enumerate(spec.classes)),
        label2id={name: number for number, name in enumerate(spec.classes)},
    )
    module: nn.Module = ViTForImageClassification(config)
    return module


def logits(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    result: Tensor = module(pixel_values=inputs["pixel_values"]).logits
    return result


def features(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The class token after the last layer."""
    tokens: Tensor = module.vit(pixel_values=inputs["pixel_values"]).last_hidden_state
    return tokens[:, 0]


def masked(module: Any, params: Vit) -> tuple[nn.Module, int]:
    """transformers' ViTForMaskedImageModeling round the same encoder; images must be square."""
    from transformers import ViTConfig, ViTForMaskedImageModeling

    size = module.config.image_size[0]
    changed = {"image_size": size, "encoder_stride": params.patch_size}
    around = ViTForMaskedImageModeling(ViTConfig.from_dict(module.config.to_dict() | changed))
    around.vit.layers, around.vit.layernorm = module.vit.layers, module.vit.layernorm
    ours, theirs = module.vit.embeddings, around.vit.embeddings
    theirs.patch_embeddings, theirs.cls_token = ours.patch_embeddings, ours.cls_token
    theirs.position_embeddings = ours.position_embeddings
    return around, (size // params.patch_size) ** 2


def blocks(module: Any) -> list[nn.Module]:
    return [module.vit.embeddings, *module.vit.layers]


def lora_targets(module: nn.Module) -> list[str]:
    return ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


def prunable(module: nn.Module) -> Sequence[nn.Module]:
    """The feed-forward width of every layer."""
    return [layer.mlp.fc1 for layer in module.vit.layers]  # type: ignore[union-attr]


def pruned(module: nn.Module, params: Vit) -> Vit:
    (width,) = {layer.mlp.fc1.out_features for layer in module.vit.layers}  # type: ignore[union-attr]
    module.config.intermediate_size = width  # type: ignore[union-attr]
    return params.model_copy(update={"intermediate_size": width})


def save(module: nn.Module, directory: Path) -> None:
    module.save_pretrained(directory)  # type: ignore[operator]


def load(directory: Path, params: Vit, spec: Spec) -> nn.Module:
    from transformers import ViTForImageClassification

    module: nn.Module = ViTForImageClassification.from_pretrained(
        directory, local_files_only=True, use_safetensors=True
    )
    return module
