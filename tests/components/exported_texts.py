"""Exported text classifiers of random weights, large enough that answers differ, and masks of every kind."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from components.graph import name_layers, tidy

VOCABULARY = 300
SMALL = {"vocab_size": VOCABULARY, "num_labels": 3, "initializer_range": 0.3, "max_position_embeddings": 80}
LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
CONFIGS: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(**SMALL, **LAYERS),
    "distilbert": lambda: transformers.DistilBertConfig(**SMALL, dim=64, n_layers=2, n_heads=4, hidden_dim=128),
    "roberta": lambda: transformers.RobertaConfig(**SMALL, **LAYERS, pad_token_id=1),
    "electra": lambda: transformers.ElectraConfig(**SMALL, **LAYERS, embedding_size=32),
    "deberta": lambda: transformers.DebertaV2Config(**SMALL, **LAYERS, relative_attention=True, pos_att_type=["p2c"]),
}


def export(architecture: str, file: Path) -> Path:
    """Its graph, exported as build does it: (input_ids, attention_mask), both dynamic, to logits."""
    torch.manual_seed(0)
    attention = {} if architecture == "deberta" else {"attn_implementation": "eager"}
    make: Any = transformers.AutoModelForSequenceClassification.from_config
    module = make(CONFIGS[architecture](), **attention)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *raw: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.module(input_ids=raw[0], attention_mask=raw[1]).logits
            return logits

    ids = torch.randint(0, VOCABULARY, (2, 17))
    open_dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=64)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Whole().eval(),
            (ids, torch.ones_like(ids)),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"raw": (open_dims, open_dims)},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    name_layers(model)
    tidy(model)
    file.write_bytes(model.SerializeToString(deterministic=True))
    return file


def rows(batch: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens under masks with holes; of four and more, one whole, one empty, one padded at either end."""
    rng = np.random.default_rng(length)
    mask = rng.integers(0, 2, (batch, length))
    mask[0] = 1
    if batch > 3:
        mask[1], mask[2], mask[3] = 0, np.arange(length) > length // 2, np.arange(length) <= length // 2
    return {"input_ids": rng.integers(0, VOCABULARY, (batch, length)), "attention_mask": mask}
