"""qat: fine-tune with the rounding of int8 in place (Jacob et al., arXiv 1712.05877), so that it costs less later.

Linear layers and convolutions see weights rounded per output channel, symmetric int8, and inputs rounded per tensor,
asymmetric uint8; gradients pass straight through, where nothing was clipped. What comes out is a plain model whose
weights lie on the int8 grid already: a quantizer with these ranges changes none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.errors import TrainingError
from components.fit import fit, measure, supervised
from components.model import Context, Model
from components.params import Qat

if TYPE_CHECKING:
    from torch import Tensor, nn

AVERAGING = 0.01  # of a new batch in a range's running mean: torch's MovingAverageMinMaxObserver has the same


def run(model: Model, params: Qat, context: Context) -> tuple[Model, dict[str, float]]:
    validation = context.rows("validation")
    before = measure(model, validation, params.fit.loss)
    restore = rounded(model.module, params.observe_batches)
    fit(model, params.fit, context, supervised(model, params.fit))
    after = measure(model, validation, params.fit.loss)
    restore()
    return model, {
        "validation_accuracy_before": before["accuracy"],
        "validation_accuracy_fake_quantized": after["accuracy"],
        "validation_loss_fake_quantized": after["loss"],
    }


def rounded(module: nn.Module, observe_batches: int | None) -> Any:
    """Round weights and inputs of every linear layer and convolution from now on, in place.

    Returns a function that takes this away and leaves the rounded weights.
    """
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    class Weight(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            most = weight.detach().abs().amax(tuple(range(1, weight.ndim)))
            scale = (most / 127).clamp_min(torch.finfo(torch.float32).tiny)
            zero = torch.zeros(len(scale), dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)

    class Inputs(nn.Module):
        """The range is the batch's own, or a running mean that is frozen after so many training batches."""

        low: Tensor
        high: Tensor
        num_batches_tracked: Tensor | None
        # What components/activations.py and groups.py know of layers that count: a batch that is computed again is
        # not counted again, and what is frozen does not move.
        track_running_stats = observe_batches is not None
        momentum = AVERAGING

        def __init__(self) -> None:
            super().__init__()
            for name in ("low", "high"):
                self.register_buffer(name, torch.zeros(()))
            self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            x = x.float()
            low, high = x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)
            if observe_batches is not None:
                counted = self.num_batches_tracked
                if self.training and counted is not None and counted < observe_batches:
                    share = self.momentum if counted else 1.0
                    self.low.lerp_(low, share)
                    self.high.lerp_(high, share)
                    counted += 1
                low, high = self.low, self.high
            scale = ((high - low) / 255).clamp_min(1e-12)
            zero = (-low / scale).round().int()
            return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        raise TrainingError("qat: this family has neither linear layers nor convolutions: nothing is rounded")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Weight())
        layer.add_module("rounded_inputs", Inputs())
    hooks = [layer.register_forward_pre_hook(_round_inputs) for layer in layers]

    def restore() -> None:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            del layer.rounded_inputs
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)

    return restore


def _round_inputs(layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (layer.rounded_inputs(given[0]), *given[1:])
