"""transformers' language model round the encoder of a classifier: what `pretrain` trains of a family of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.errors import TrainingError
from components.params import NEXT_SENTENCE

if TYPE_CHECKING:
    from torch import Tensor, nn


def taken(module: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which of a pair a token is in goes to architectures that tell the two apart; the others see the separator."""
    told = getattr(module.config, "type_vocab_size", 0) > 1
    return {name: x for name, x in inputs.items() if told or name != "token_type_ids"}


def model(module: Any, next_sentence: bool) -> nn.Module:
    """transformers' model for masked language modelling round the same encoder, its head tied to the embeddings.

    The head answers for the chosen tokens alone: that takes a small part of the time and memory of all of them.
    """
    import copy

    from torch import nn
    from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

    kind = module.config.model_type
    if next_sentence and kind not in NEXT_SENTENCE:
        raise TrainingError(
            f"method.next_sentence: {kind} has no answer to whether two texts belong together; architectures that "
            f"do: {', '.join(NEXT_SENTENCE)}. Take it out"
        )
    made = AutoModelForPreTraining if next_sentence else AutoModelForMaskedLM
    try:
        around: Any = made.from_config(copy.deepcopy(module.config), trust_remote_code=False)
    except ValueError as error:
        raise TrainingError(f"transformers has no masked language model for {kind}; take another method") from error
    setattr(around, around.base_model_prefix, module.base_model)
    around.tie_weights()

    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = around

        def get_base_model(self) -> nn.Module:
            """As peft's: what fit looks into for blocks."""
            return self.model  # type: ignore[no-any-return]

        def forward(self, inputs: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
            def only(encoder: Any, given: Any, out: Any) -> Any:
                out["last_hidden_state"] = out["last_hidden_state"][chosen].unsqueeze(0)
                return out

            hook = self.model.base_model.register_forward_hook(only)
            try:
                said = self.model(**taken(self.model, inputs))
            finally:
                hook.remove()
            if next_sentence:
                return {"tokens": said.prediction_logits[0], "next_sentence": said.seq_relationship_logits}
            return {"tokens": said.logits[0]}

    return Chosen()
