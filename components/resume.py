"""Checkpoints of a training that goes on: safetensors, and a JSON file beside each that vouches for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.hashing import sha256_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)


def save(
    checkpoints: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: Mapping[str, Mapping[str, Tensor]],
    progress: dict[str, float],
) -> None:
    """Everything a resumed run needs, torch's random state too; the JSON is written last. The newest two are kept.

    `kept` holds what else has the module's names, such as the weights of the best epoch.
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {"random": torch.get_rng_state()}
    tensors |= {f"module.{name}": x for name, x in module.state_dict().items()}
    tensors |= {f"{what}.{name}": x for what, states in kept.items() for name, x in states.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": x for name, x in state.items() if isinstance(x, torch.Tensor)}
    checkpoints.mkdir(parents=True, exist_ok=True)
    path = checkpoints / f"{int(progress['epoch']):06d}.safetensors"
    save_file({name: x.detach().clone().contiguous() for name, x in tensors.items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256_file(path), "progress": progress}), "utf-8")
    for old in sorted(checkpoints.glob("*.safetensors"))[:-2]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()


def restore(
    checkpoints: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, float] | None:
    """Put back the newest whole checkpoint; a damaged one is passed over with a warning. None if there is none."""
    import torch
    from safetensors.torch import load_file

    for card in sorted(checkpoints.glob("*.json"), reverse=True):
        path = card.with_suffix(".safetensors")
        try:
            said: dict[str, Any] = json.loads(card.read_text("utf-8"))
            whole = sha256_file(path) == said["sha256"]
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            log.warning("checkpoint %s is damaged and passed over", path.name)
            continue
        tensors = load_file(path)
        module.load_state_dict({n.removeprefix("module."): x for n, x in tensors.items() if n.startswith("module.")})
        for what, states in kept.items():
            for name, x in states.items():
                x.copy_(tensors[f"{what}.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, x in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                state.setdefault(int(number), {})[key] = x
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, moments in optimizer.state.items():
            for key, x in moments.items():
                # In memory as the parameter is: fused optimizers go through both side by side.
                if torch.is_tensor(x) and x.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter, dtype=x.dtype).copy_(x)
        torch.set_rng_state(tensors["random"])
        progress: dict[str, float] = said["progress"]
        return progress
    return None
