"""Token rows made up for tests: words of two kinds decide the class; no tokenizer is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components import assemble, params
from components.data import Rows, Spec, Vocabulary
from components.model import Context, Model

WIDTH = 24
VOCABULARY = Vocabulary(
    size=60, padding=0, unknown=1, start=2, separator=3, mask=4, sentence_ends=[5, 6, 7], sha256="0" * 64
)
SPEC = Spec(
    task="text_classification",
    inputs={"input_ids": "int64", "attention_mask": "int64"},
    shape=[WIDTH],
    classes=["a", "b"],
    statistics={},
    vocabulary=VOCABULARY,
)
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "roberta": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    "electra": {
        "embedding_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    "deberta-v2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
}
LOOP: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "optimizer": {"kind": "adamw", "lr": 0.005, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_share": 0.1},
    "clip_norm": 1.0,
    "patience": 50,
}
FIT = LOOP | {"loss": {"kind": "cross_entropy", "label_smoothing": 0.0}}


def rows(split: str, count: int = 160) -> Rows:
    """Of length 6 to WIDTH: a sentence of words 8 to 31 and one of the same words; class b has them 24 higher."""
    random = np.random.default_rng(SPLITS.index(split))
    labels = random.integers(0, 2, count)
    ids = np.zeros((count, WIDTH), np.int64)
    for row, label in enumerate(labels):
        length = int(random.integers(6, WIDTH + 1))
        words = random.integers(8, 20, length - 2) + 24 * label
        words[(length - 2) // 2] = 5
        ids[row, :length] = [2, *words, 3]
    return Rows(np.arange(count), {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}, labels)


SPLITS = ("train", "validation")


def model(architecture: str = "bert", **changes: Any) -> Model:
    """The smallest useful one, from seed 0."""
    torch.manual_seed(0)
    config = CONFIGS[architecture] | changes
    return assemble.create(
        params.check_family({"family": "bert", "architecture": architecture, "config": config}), SPEC
    )


def context(
    out: Path, log: Callable[[Mapping[str, float], int], None] = lambda metrics, step: None, count: int = 160
) -> Context:
    return Context(
        rows=lambda split: rows(split, count) if split in SPLITS else rows("train", count).head(0),  # no corpus
        create=lambda made: assemble.create(made, SPEC),
        seed=3,
        out=out,
        parent_sha256="",
        log=log,
    )


def weights(made: Model) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in made.module.state_dict().items()}
