"""What holds for some layers only (fit.groups): learning rate, weight decay, dropout, freezing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from components.errors import TrainingError
from components.params import Group

if TYPE_CHECKING:
    from torch import nn

NAMED = 20  # at most, in an error


def _own(name: str) -> str:
    """As it is called in the model itself: without what peft, a distillation or quantization-aware training add."""
    bare = name.removeprefix("base_model.model.").removeprefix("student.").replace("parametrizations.", "")
    return bare.removesuffix(".original")


def _fits(name: str, match: str) -> bool:
    """The name itself, or that of a module around it."""
    around = accumulate(_own(name).split("."), lambda outer, inner: f"{outer}.{inner}")
    return any(fnmatchcase(part, match) for part in around)


def _assigned(names: Iterable[str], groups: Sequence[Group]) -> dict[str, int]:
    """The number of the first group that fits; names that none fits are left out."""
    first = {name: next((i for i, group in enumerate(groups) if _fits(name, group.match)), None) for name in names}
    return {name: number for name, number in first.items() if number is not None}


def _dropouts(module: nn.Module) -> dict[str, tuple[Any, str]]:
    """Name of each layer with dropout to the layer and its attribute: torch's own, and attention's in transformers."""
    from torch.nn.modules.dropout import _DropoutNd

    found: dict[str, tuple[Any, str]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, _DropoutNd):
            found[name] = layer, "p"
        elif isinstance(getattr(layer, "attention_dropout", None), float):
            found[name] = layer, "attention_dropout"
    return found


def _check(kind: str, names: Sequence[str], groups: Sequence[Group], number: int, taken: Iterable[int]) -> None:
    if number in taken:
        return
    match, where = groups[number].match, f"fit.groups.{number}.match"
    if any(_fits(name, match) for name in names):
        raise TrainingError(f"{where}: earlier groups fit every {kind} that {match!r} fits; put this one before them")
    own = [_own(name) for name in names]
    close = difflib.get_close_matches(match, own, NAMED, 0.4) or own
    known = ", ".join(close[:NAMED]) + (", ..." if len(own) > len(close[:NAMED]) else "")
    raise TrainingError(f"{where}: {match!r} fits no {kind}; " + (f"there are: {known}" if own else "there is none"))


def apply(module: nn.Module, groups: Sequence[Group]) -> tuple[dict[str, Group], list[nn.Module]]:
    """Set dropout and freeze in place. Returns the group of each parameter that is still trained and has one, and the
    layers whose running statistics are frozen too: they must stay in eval mode.

    Raises TrainingError for a group that changes nothing.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    dropouts = _dropouts(module)
    weights, layers = _assigned(trained, groups), _assigned(dropouts, groups)
    for number, group in enumerate(groups):
        if group.freeze or group.lr_factor is not None or group.weight_decay is not None:
            _check("trained parameter", list(trained), groups, number, weights.values())
        if group.dropout is not None:
            _check("dropout layer", list(dropouts), groups, number, layers.values())
    for name, number in layers.items():
        if (dropout := groups[number].dropout) is not None:
            layer, attribute = dropouts[name]
            setattr(layer, attribute, dropout)
    for name, number in weights.items():
        trained[name].requires_grad_(not groups[number].freeze)
    counting = {name: x for name, x in module.named_modules() if getattr(x, "track_running_stats", False)}
    still = [counting[name] for name, number in _assigned(counting, groups).items() if groups[number].freeze]
    return {name: groups[number] for name, number in weights.items() if not groups[number].freeze}, still


def for_optimizer(
    trained: Mapping[str, nn.Parameter],
    of: Mapping[str, Group],
    weight_decay: float,
    factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Torch's parameter groups, with the factor on the learning rate as `lr_factor`; `factors`: those of layer_decay.

    Weight decay is for matrices only: biases and normalisation scales stay out of it, unless their group says another.
    """
    parts: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        factor, decay = (factors or {}).get(name, 1.0), weight_decay if parameter.ndim > 1 else 0.0
        if group := of.get(name):
            factor = factor if group.lr_factor is None else group.lr_factor
            decay = decay if group.weight_decay is None else group.weight_decay
        parts.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (factor, decay), parameters in parts.items()
    ]
