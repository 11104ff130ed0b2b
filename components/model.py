"""A model as it passes from stage to stage: an architecture, its weights and what it knows of its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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

    rows: Callable[[str], Rows]  # 'train' or 'validation'
    create: Callable[[FamilyParams], Model]  # a new, untrained model for the same task and data
    seed: int
    out: Path  # the model's folder: for files beside the weights
    parent_sha256: str  # of the weights that the variant starts from
    log: Callable[[Mapping[str, float], int], None]  # metrics at an epoch
    probe: Probe | None = None
