"""A model as it passes from stage to stage: an architecture, its weights and what it knows of its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from components.data import Case, Rows, Spec, Suspect
from components.params import Family as FamilyParams
from components.params import Loss, Parity

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class Family(Protocol):
    """What a file in families/ offers. Torch and transformers are imported inside its functions."""

    def build(self, params: Any, spec: Spec) -> nn.Module: ...

    def logits(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Preprocessed inputs, first axis the batch, to float logits (batch, classes)."""
        ...

    def features(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the classifier sees, float (batch, width), for preprocessed inputs; what `pretrain` trains.

        Raises TrainingError in a family that has nothing before its classifier.
        """
        ...

    def lora_targets(self, module: nn.Module) -> list[str]:
        """Names of the linear layers that take a low-rank update, as peft's `target_modules` matches them."""
        ...

    def prunable(self, module: nn.Module) -> Sequence[nn.Module]:
        """Layers whose output channels may go; the dependency graph follows what hangs on them."""
        ...

    def pruned(self, module: nn.Module, params: Any) -> Any:
        """The params that `build` needs to make the pruned module again."""
        ...

    def save(self, module: nn.Module, directory: Path) -> None: ...

    def load(self, directory: Path, params: Any, spec: Spec) -> nn.Module: ...


class Adopting(Protocol):
    """What a family whose params may name a checkpoint offers besides."""

    def adopt(self, folder: Path, params: Any, spec: Spec) -> tuple[Any, nn.Module]:
        """The module of a checked checkpoint for our classes, and params that `build` the like of it."""
        ...


class Maskable(Protocol):
    """What a family that is in params.MASKABLE offers besides."""

    def masked(self, module: nn.Module, params: Any) -> tuple[nn.Module, int]:
        """A module that trains this one's encoder in place, and how many patches an image has.

        It takes pixel_values and bool (batch, patches), true where masked, and answers with the `loss` of the pixels
        under the mask.
        """
        ...


class LanguageModel(Protocol):
    """What a family that is in params.LANGUAGE offers besides."""

    def language_model(self, module: nn.Module, next_sentence: bool) -> nn.Module:
        """A module that trains this one's encoder in place.

        It takes preprocessed inputs and `chosen`, bool (batch, length), and answers with float `tokens` (chosen,
        vocabulary) and, if asked for, `next_sentence` (batch, 2), in which 0 means that the second text follows.
        Raises TrainingError for an architecture that cannot.
        """
        ...


class Blocked(Protocol):
    """What a family that is in params.BLOCKED offers besides."""

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        """Bottom to top, what embeds the inputs first; the head is in none of them.

        Of families in params.TOKENS each gives float (batch, tokens, width), alone or first in a tuple.
        """
        ...


@dataclass(frozen=True)
class Encoder:
    """Where the parts of a transformer's encoder are, whose layers are alike."""

    sizes: Mapping[str, int]  # layers, heads, hidden and feed_forward
    blocks: str  # the list of its layers, by name; then names of linear layers in one of them
    query: str
    key: str
    value: str
    attended: str  # after attention
    widened: str  # into the feed-forward width
    returned: str  # out of it


class Narrowable(Protocol):
    """What a family that is in params.NARROWABLE offers besides."""

    def encoder(self, module: nn.Module) -> Encoder:
        """Raises TrainingError for an architecture whose layers cannot be made narrower."""
        ...

    def narrowed(self, module: nn.Module, params: Any, sizes: Mapping[str, int]) -> Any:
        """The params that `build` needs for a module like this with these sizes. Raises TrainingError if none can."""
        ...


class Task(Protocol):
    """What a file in tasks/ offers to stages that compute with a model."""

    def preprocess(self, inputs: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
        """Raw inputs to what a family takes; traced into the exported graph."""
        ...

    def loss(self, logits: Tensor, labels: Tensor, params: Loss) -> Tensor:
        """Mean over the batch; labels are class numbers (batch,) or probabilities (batch, classes)."""
        ...

    def metrics(self, logits: Any, labels: Any) -> dict[str, float]: ...

    def grid(self, inputs: Mapping[str, np.ndarray], parity: Parity) -> Iterator[Case]:
        """The cases in which an exported or quantized model must answer raw rows as the model does.

        Images: the batch sizes. A task with a mask adds lengths, left padding and holes: right-padded rows do not
        show that a mask is lost.
        """
        ...

    def suspects(self, spec: Spec) -> list[Suspect]:
        """The faults of an export that this task's inputs may have, to name the one that explains wrong answers."""
        ...


@dataclass(frozen=True)
class Model:
    params: FamilyParams  # with `family` and `spec`, all that is needed to build the module again
    family: Family
    task: Task
    spec: Spec
    module: nn.Module

    def logits(self, raw: Mapping[str, Tensor]) -> Tensor:
        """Raw inputs, first axis the batch, to logits (batch, classes)."""
        return self.family.logits(self.module, self.task.preprocess(raw, self.spec)).float()  # half under autocast

    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())

    def blocks(self) -> list[nn.Module]:
        """Of the model itself, also with an adapter on it or inside of what trains it; empty if it has none."""
        if not hasattr(self.family, "blocks"):
            return []
        inner: Any = self.module.get_base_model() if hasattr(self.module, "get_base_model") else self.module  # type: ignore[operator]
        return cast(Blocked, self.family).blocks(inner)


class Probe(Protocol):
    """`temper lr-find` in the training loop."""

    def learning_rate(self, step: int) -> float:
        """Of this step, in place of the schedule's."""
        ...

    def see(self, loss: float) -> None:
        """The loss of the step; may raise to end the training."""
        ...


@dataclass(frozen=True)
class Context:
    """What a pass may use besides its model and its params."""

    rows: Callable[[str], Rows]  # 'train', 'validation' or 'corpus', which may be empty and has no labels
    create: Callable[[FamilyParams], Model]  # a new, untrained model for the same task and data
    seed: int
    out: Path  # the model's folder: for files beside the weights
    parent_sha256: str  # of the weights that the variant starts from
    log: Callable[[Mapping[str, float], int], None]  # metrics at an epoch
    probe: Probe | None = None
