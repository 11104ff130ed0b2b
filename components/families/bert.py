"""Any encoder of transformers that classifies texts, from a config or from a checkpoint whose head is made new.

Reloads without Temper: `AutoModelForSequenceClassification.from_pretrained(directory)`. LoRA takes every linear layer
of the encoder. Pruning takes heads, widths and layers of those in NARROWABLE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import language, pretrained
from components.data import Spec, Vocabulary
from components.errors import DataError, ParamsError, TrainingError
from components.model import Encoder
from components.params import SHARES, Bert

if TYPE_CHECKING:
    from torch import Tensor, nn

# Not convbert, whose convolutions read padding as text; nor modernbert, whose local attention leaves queries without a
# key where padding is on the left: what they answer then depends on how attention is computed.
ARCHITECTURES = [
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "mpnet",
    "roberta",
    "xlm-roberta",
]
# What their configs call sizes, and their layers the linear layers. All others share layers, or attend in another way.
SIZES = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "hidden_size",
    "feed_forward": "intermediate_size",
}
PARTS = {
    "blocks": "encoder.layer",
    **{part: f"attention.self.{part}" for part in ("query", "key", "value")},
    "attended": "attention.output.dense",
    "widened": "intermediate.dense",
    "returned": "output.dense",
}
NARROWABLE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), (SIZES, PARTS)),
    "distilbert": (
        {"layers": "n_layers", "heads": "n_heads", "hidden": "dim", "feed_forward": "hidden_dim"},
        {
            "blocks": "transformer.layer",
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attended": "attention.out_lin",
            "widened": "ffn.lin1",
            "returned": "ffn.lin2",
        },
    ),
}
# They count positions from the padding's id on.
OFFSET = {"camembert", "mpnet", "roberta", "xlm-roberta"}
# Ids that a config may name, and what the tokenizer calls them.
IDS = {
    "pad_token_id": "padding",
    "bos_token_id": "start",
    "cls_token_id": "start",
    "eos_token_id": "separator",
    "sep_token_id": "separator",
}


def build(params: Bert, spec: Spec) -> nn.Module:
    """Raises ParamsError for what transformers does not have, or what cannot take the data's texts."""
    return pretrained.build(KIND, params, spec)


def adopt(folder: Path, params: Bert, spec: Spec) -> tuple[Bert, nn.Module]:
    """The weights of a checked checkpoint under a new head, and params that build the like of it without.

    The head stays if it has our classes already. Raises DataError for another task, model type, tokenizer or length.
    """
    return pretrained.adopt(KIND, folder, params, spec)


def _vocabulary(spec: Spec) -> Vocabulary:
    if spec.vocabulary is None:
        raise ParamsError([f"model.family: bert reads texts, and task {spec.task} has none; take another family"])
    return spec.vocabulary


def _positions(architecture: str, spec: Spec) -> int:
    """How many positions a row of the greatest length takes."""
    return spec.shape[0] + (_vocabulary(spec).padding + 1 if architecture in OFFSET else 0)


def _settings(comes: Any, given: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    vocabulary, name = _vocabulary(spec), comes.model_type
    least = {"vocab_size": vocabulary.size, "max_position_embeddings": _positions(name, spec)}
    errors = [
        f"model.config.{key}: must be at least {needed} for these data, got {given[key]!r}; leave it out"
        for key, needed in least.items()
        if isinstance(given.get(key, needed), int) and given.get(key, needed) < needed
    ]
    if name == "mpnet" and vocabulary.padding != 1:  # which is written in its code
        errors.append(
            f"model.architecture: mpnet takes token 1 for padding, the tokenizer pads with {vocabulary.padding}; take "
            "another architecture, or the tokenizer of a checkpoint of mpnet"
        )
    if errors:
        raise ParamsError(errors)
    ids = {key: getattr(vocabulary, use) for key, use in IDS.items() if getattr(comes, key, None) is not None}
    return {**{key: needed for key, needed in least.items() if key not in given}, **ids}


def _adopted(where: str, comes: Any, raw: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    vocabulary, name = _vocabulary(spec), comes.model_type
    rows = raw.get("vocab_size", comes.vocab_size)
    if vocabulary.size > rows:
        raise DataError(
            f"{where}: knows {rows} tokens, the tokenizer has {vocabulary.size}; it belongs to another checkpoint: "
            "set task.tokenizer to kind checkpoint, or correct init.model.checkpoint"
        )
    for key, use in IDS.items():
        theirs, ours = raw.get(key, getattr(comes, key, None)), getattr(vocabulary, use)
        if theirs is not None and theirs != ours:
            raise DataError(
                f"{where}: its config has {key} {theirs}, the tokenizer's is {ours}; it belongs to another checkpoint: "
                "set task.tokenizer to kind checkpoint, or put its own tokenizer.json beside the weights"
            )
    positions, needed = raw.get("max_position_embeddings", comes.max_position_embeddings), _positions(name, spec)
    if positions < needed:
        raise DataError(
            f"{where}: has {positions} positions, texts of {spec.shape[0]} tokens take {needed}; lower task.max_tokens "
            f"to {spec.shape[0] - needed + positions}"
        )
    # Said here too: a config.json may leave out what its architecture comes with.
    return {"vocab_size": rows, "max_position_embeddings": positions}


def _example(spec: Spec) -> dict[str, Tensor]:
    import torch

    ids = torch.full((2, spec.shape[0]), _vocabulary(spec).unknown)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def logits(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    result: Tensor = module(**language.taken(module, inputs)).logits
    return result


KIND = pretrained.Kind(
    auto="AutoModelForSequenceClassification",
    architectures=lambda: ARCHITECTURES,
    inputs="texts",
    size=lambda spec: f"{spec.shape[0]} tokens",
    remedy="lower task.max_tokens",
    from_data=frozenset(
        {*IDS, "is_decoder", "add_cross_attention", "use_cache", "tie_word_embeddings", "problem_type"}
    ),
    settings=_settings,
    adopted=_adopted,
    logits=logits,
    example=_example,
)


def features(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the last linear layer is given."""
    return pretrained.features(KIND, module, inputs)


def blocks(module: Any) -> list[nn.Module]:
    """The embeddings and the layers, of any model of transformers with this encoder."""
    from torch import nn

    encoder = module.base_model
    layers = next(part for part in encoder.modules() if isinstance(part, nn.ModuleList))
    return [encoder.embeddings, *layers]


def language_model(module: Any, next_sentence: bool) -> nn.Module:
    return language.model(module, next_sentence)


def lora_targets(module: Any) -> list[str]:
    """Every linear layer of the encoder; a pooler belongs to the head."""
    from torch import nn

    inside = f"{module.base_model_prefix}."
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(inside) and ".pooler" not in name
    ]


def prunable(module: nn.Module) -> Sequence[nn.Module]:
    raise TrainingError(f"family bert: ratio is for channels; give at least one of {', '.join(SHARES)} in its place")


def pruned(module: Any, params: Bert) -> Bert:
    raise TrainingError("family bert: has no channels")


def encoder(module: Any) -> Encoder:
    """Raises TrainingError for an architecture that is not in NARROWABLE."""
    kind = module.config.model_type
    if kind not in NARROWABLE:
        raise TrainingError(
            f"prune: the layers of {kind} cannot be made narrower here; architectures that can: "
            f"{', '.join(sorted(NARROWABLE))}. Distil it into a smaller model"
        )
    keys, parts = NARROWABLE[kind]
    sizes = {size: int(getattr(module.config, key)) for size, key in keys.items()}
    return Encoder(sizes=sizes, **{**parts, "blocks": f"{module.base_model_prefix}.{parts['blocks']}"})


def narrowed(module: Any, params: Bert, sizes: Mapping[str, int]) -> Bert:
    has, config = module.config, {NARROWABLE[module.config.model_type][0][size]: x for size, x in sizes.items()}
    if has.model_type == "electra" and has.embedding_size == has.hidden_size:
        config["embedding_size"] = sizes["hidden"]
    elif has.model_type == "electra" and has.embedding_size == sizes["hidden"]:
        raise TrainingError(
            f"hidden: electra projects no embeddings that are as wide as its hidden states, {sizes['hidden']}; choose "
            "another share"
        )
    # Of a checkpoint these may be its own, not the least that the data need.
    tables = {key: getattr(has, key) for key in ("vocab_size", "max_position_embeddings")}
    return params.model_copy(update={"config": {**(params.config or {}), **tables, **config}})


def save(module: nn.Module, directory: Path) -> None:
    module.save_pretrained(directory)  # type: ignore[operator]


def load(directory: Path, params: Bert, spec: Spec) -> nn.Module:
    return pretrained.load(KIND, directory)
