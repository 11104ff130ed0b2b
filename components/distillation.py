"""What a student learns of its teacher: its answers, and from its inside, of families in params.TOKENS.

Answers: softened by a temperature (Hinton et al., arXiv 1503.02531).
Hidden states: mean squared error after a learned projection (TinyBERT, Jiao et al., arXiv 1909.10351); which layers is
up to the params (PKD, Sun et al., arXiv 1908.09355). Attention: relations of queries, keys and values of the last
layer (MiniLMv2, Wang et al., arXiv 2012.15828), which need neither as many heads nor the same width, nor the attention
probabilities themselves. Starting from the teacher's layers: DistilBERT (Sanh et al., arXiv 1910.01108).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from components.errors import TrainingError
from components.model import Model
from components.params import TOKENS

if TYPE_CHECKING:
    from torch import Tensor, nn

# What transformers calls the layers that make queries, keys and values.
ATTENDING = {
    "query": re.compile(r"(^|\.)(query(_proj)?|q(_lin|_proj)?)$"),
    "key": re.compile(r"(^|\.)(key(_proj)?|k(_lin|_proj)?)$"),
    "value": re.compile(r"(^|\.)(value(_proj)?|v(_lin|_proj)?)$"),
}


def layers(model: Model, key: str) -> list[nn.Module]:
    """Blocks of a model, what embeds the inputs first. Raises TrainingError for a family without."""
    if model.params.family not in TOKENS:
        raise TrainingError(
            f"{key}: family {model.params.family} has no layers of tokens; families that do: {', '.join(TOKENS)}. "
            "Take it out"
        )
    return model.blocks()


def check(key: str, wanted: Sequence[int], teacher: Sequence[nn.Module], student: Sequence[nn.Module]) -> None:
    if len(wanted) != len(student) - 1:
        raise TrainingError(
            f"{key}: has {len(wanted)} entries, and the student {len(student) - 1} layers; name one each"
        )
    if max(wanted) >= len(teacher):
        raise TrainingError(f"{key}: names layer {max(wanted)}, and the teacher has {len(teacher) - 1}")


def copy(student: Model, teacher: Model, wanted: Sequence[int]) -> None:
    """Start the student from the teacher's layers, in place; what is outside of the layers is copied as it is.

    Raises TrainingError if their widths differ.
    """
    theirs, ours = layers(teacher, "copy_layers"), layers(student, "copy_layers")
    check("copy_layers", wanted, theirs, ours)
    inside = {id(p) for block in ours for p in block.state_dict(keep_vars=True).values()}
    given = teacher.module.state_dict()
    outside = {n: given.get(n) for n, p in student.module.state_dict(keep_vars=True).items() if id(p) not in inside}
    if absent := [name for name, value in outside.items() if value is None]:
        raise TrainingError(f"copy_layers: the teacher has no {absent[0]}; give the student the teacher's architecture")
    try:
        for block, number in zip(ours, [0, *wanted], strict=True):
            block.load_state_dict(theirs[number].state_dict())
        student.module.load_state_dict(outside, strict=False)
    except RuntimeError as error:
        first = " ".join(str(error).split("\n\t")[1].split()) if "\n\t" in str(error) else str(error)
        raise TrainingError(
            f"copy_layers: the student's layers are not those of the teacher ({first[:200]}); give it the teacher's "
            "widths, or take copy_layers out"
        ) from None


@contextmanager
def watched(parts: Mapping[Any, nn.Module]) -> Iterator[dict[Any, Tensor]]:
    """What each of these layers answers, at the last call, as long as this lasts."""
    seen: dict[Any, Tensor] = {}

    def keep(name: Any) -> Any:
        def hook(layer: nn.Module, given: Any, out: Any) -> None:
            seen[name] = out[0] if isinstance(out, tuple) else out

        return hook

    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def attending(block: nn.Module) -> dict[str, nn.Module]:
    """The layers that make queries, keys and values in a block."""
    found = {
        use: [layer for name, layer in block.named_modules() if pattern.search(name)]
        for use, pattern in ATTENDING.items()
    }
    if wrong := [use for use, those in found.items() if len(those) != 1]:
        raise TrainingError(f"attention: this architecture has no single layer that makes its {wrong[0]}; take it out")
    return {use: those[0] for use, those in found.items()}


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student at temperature T) of logits (batch, classes), mean over the batch."""
    from torch.nn.functional import kl_div, log_softmax

    apart = kl_div(
        log_softmax(student / temperature, dim=1),
        log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return apart * temperature**2


def hidden_loss(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Mean squared error over the tokens that are not padding; (batch, tokens, width) both."""
    distance = (student.float() - teacher.float()).square().mean(2)
    return (distance * real).sum() / real.sum()


def relation_loss(student: Tensor, teacher: Tensor, real: Tensor, heads: int) -> Tensor:
    """KL(teacher || student) of how each token relates to all others, mean over heads and tokens that are not padding.

    (batch, tokens, width) both, of any two widths that `heads` divides.
    """
    from torch.nn.functional import kl_div, log_softmax

    def relations(x: Tensor) -> Tensor:
        x = x.float().view(*x.shape[:2], heads, -1).transpose(1, 2)
        scores = x @ x.transpose(2, 3) / x.shape[3] ** 0.5
        return log_softmax(scores.masked_fill(~real.bool()[:, None, None], -1e9), dim=3)

    apart = kl_div(relations(student), relations(teacher), reduction="none", log_target=True).sum(3).mean(1)
    return (apart * real).sum() / real.sum()
