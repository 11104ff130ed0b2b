"""lora: train low-rank updates beside frozen weights (Hu et al., arXiv 2106.09685), then merge them.

The adapter is kept in adapter/ with the sha256 of the weights it belongs to: peft itself accepts any base.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import TemperError
from components.fit import fit, supervised
from components.model import Context, Model
from components.params import Lora

if TYPE_CHECKING:
    from torch import nn


def run(model: Model, params: Lora, context: Context) -> tuple[Model, dict[str, float]]:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=model.family.lora_targets(model.module),
    )
    adapted = replace(model, module=get_peft_model(model.module, config))
    # The base's running statistics stay as frozen as its weights, or the adapter would not fit the base any more.
    counting = [layer for layer in adapted.module.modules() if getattr(layer, "track_running_stats", False)]
    hooks = [layer.register_forward_pre_hook(_in_eval_mode) for layer in counting]
    trained = sum(p.numel() for p in adapted.module.parameters() if p.requires_grad)
    share = trained / adapted.parameters()
    fit(adapted, params.fit, context, supervised(adapted, params.fit))
    for hook in hooks:
        hook.remove()
    _save(adapted, context)
    merged = replace(model, module=adapted.module.merge_and_unload(safe_merge=True))  # type: ignore[operator]
    return merged, {"trained_parameters": trained, "trained_share": share}


def _in_eval_mode(layer: nn.Module, _: object) -> None:
    layer.eval()


def _save(adapted: Model, context: Context) -> None:
    folder = context.out / "adapter"
    adapted.module.save_pretrained(folder)  # type: ignore[operator]
    (folder / "README.md").unlink(missing_ok=True)  # a template of peft's that says nothing
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # a set in peft: its order varies by process
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    (folder / "base.json").write_text(json.dumps({"sha256": context.parent_sha256}) + "\n", "utf-8")


def attach(model: Model, adapter: Path, base_sha256: str) -> Model:
    """The base model with a saved adapter on it, unmerged. Refuses an adapter that was trained on other weights."""
    from peft import PeftModel

    belongs = json.loads((adapter / "base.json").read_text("utf-8"))["sha256"]
    if belongs != base_sha256:
        raise TemperError(
            f"{adapter}: this adapter belongs to weights with sha256 {belongs[:12]}, not {base_sha256[:12]}; "
            "load it on the variant it was trained from"
        )
    return replace(model, module=PeftModel.from_pretrained(model.module, str(adapter)))
