"""lora: train low-rank updates beside frozen weights (Hu et al., arXiv 2106.09685), then merge them.

Besides: DoRA (Liu et al., arXiv 2402.09353) and rsLoRA (Kalajdzievski, arXiv 2312.03732).
The adapter is kept in adapter/ with the sha256 of the weights it belongs to: peft itself accepts any base.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import TemperError, TrainingError
from components.fit import fit, supervised
from components.model import Context, Model
from components.params import Lora

if TYPE_CHECKING:
    from torch import nn


def run(model: Model, params: Lora, context: Context) -> tuple[Model, dict[str, float]]:
    from peft import LoraConfig, get_peft_model

    head = _head(model) if params.train_head else []
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=_targets(model, params.targets, head),
        modules_to_save=head or None,
        use_dora=bool(params.dora),
        use_rslora=bool(params.rslora),
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


def _head(model: Model) -> list[str]:
    """Names of the layers with weights that lie in no block; of a family without blocks the last linear layer."""
    from torch import nn

    named = [
        (name, x) for name, x in model.module.named_modules() if next(x.parameters(recurse=False), None) is not None
    ]
    inside = {id(layer) for block in model.blocks() for layer in block.modules()}
    if not inside:
        return [name for name, layer in named if isinstance(layer, nn.Linear)][-1:]
    return [name for name, layer in named if id(layer) not in inside]


def _targets(model: Model, patterns: list[str] | None, head: list[str]) -> list[str]:
    """Whole names of the layers that take an update: those of the patterns or the family's own, less the head's.

    A pattern fits a whole name or what follows a dot in it. Raises TrainingError for one that fits no layer.
    """
    from torch import nn

    able = [
        name
        for name, layer in model.module.named_modules()
        if (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)) and name not in head
    ]
    found: set[str] = set()
    for number, pattern in enumerate(patterns or model.family.lora_targets(model.module)):
        fits = {name for name in able if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")}
        if patterns and not fits:
            raise TrainingError(
                f"targets.{number}: {pattern!r} fits no linear layer or convolution; there are: {', '.join(able[:20])}"
            )
        found |= fits
    if not found:
        raise TrainingError(
            f"family {model.params.family}: nothing is left to take a low-rank update once the head is trained whole; "
            "take train_head out"
        )
    return sorted(found)


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
    try:
        belongs = str(json.loads((adapter / "base.json").read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise TemperError(f"{adapter}: this adapter does not say to which weights it belongs; train it again") from None
    if belongs != base_sha256:
        raise TemperError(
            f"{adapter}: this adapter belongs to weights with sha256 {belongs[:12]}, not {base_sha256[:12]}; "
            "load it on the variant it was trained from"
        )
    from peft import PeftModel

    return replace(model, module=PeftModel.from_pretrained(model.module, str(adapter)))
