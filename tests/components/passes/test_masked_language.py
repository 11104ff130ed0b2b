"""Masked language modelling round every encoder: in place, resumable, and of use to a classifier after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import fit, params
from components.errors import TrainingError
from components.model import Model
from components.passes import pretrain
from tests.components import texts

METHOD = {"kind": "masked_language", "ratio": 0.15}
PAIRED = METHOD | {"next_sentence": True}


def run(
    model: Model,
    out: Path,
    method: Mapping[str, Any] = METHOD,
    kill: int | None = None,
    rows: int = 160,
    **changes: Any,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    logged: list[dict[str, float]] = []

    def log(metrics: Mapping[str, float], step: int) -> None:
        if step == kill:
            raise KeyboardInterrupt
        logged.append(dict(metrics))

    loop = texts.LOOP | changes
    wanted: Any = params.check_variant({"from": "init", "pass": "pretrain", "method": method, "fit": loop})
    made, figures = pretrain.run(model, wanted, texts.context(out, log, rows))
    assert made is model
    return figures, logged


@pytest.mark.parametrize("architecture", texts.CONFIGS)
def test_the_encoder_is_trained_in_place_and_the_classifier_is_not(architecture: str, tmp_path: Path) -> None:
    model = texts.model(architecture)
    before = texts.weights(model)
    figures, logged = run(model, tmp_path)
    changed = {name for name, x in texts.weights(model).items() if not torch.equal(x, before[name])}
    encoder = model.module.base_model_prefix + "."
    assert changed and all(name.startswith(encoder) for name in changed)
    assert any("word_embeddings" in name for name in changed)
    assert figures["pretrain_perplexity"] == pytest.approx(np.exp(figures["pretrain_masked_loss"]))
    assert 0 <= figures["pretrain_masked_accuracy"] <= 1
    assert figures["pretrain_loss"] == pytest.approx(min(row["validation_loss"] for row in logged))
    assert not model.module.training


EAGER: dict[str, Any] = {  # weights large enough to learn in seconds
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "num_hidden_layers": 2,
}


def test_it_learns_which_words_go_together(tmp_path: Path) -> None:
    """The two kinds of text have 12 words each: knowing the kind halves the perplexity of 24."""
    figures, _ = run(texts.model(**EAGER), tmp_path, epochs=25, rows=480)
    assert figures["pretrain_perplexity"] < 14


def test_it_learns_what_follows(tmp_path: Path) -> None:
    """Another row's second half is of the same kind as often as not, so that 0.75 is all there is."""
    figures, _ = run(texts.model(**EAGER), tmp_path, PAIRED, epochs=25, rows=480)
    assert figures["pretrain_next_sentence_accuracy"] > 0.65
    assert figures["pretrain_loss"] > figures["pretrain_masked_loss"]


def test_the_answer_to_what_follows_trains_the_pooler(tmp_path: Path) -> None:
    model = texts.model()
    before = texts.weights(model)
    run(model, tmp_path, PAIRED, epochs=1)
    changed = {name for name, x in texts.weights(model).items() if not torch.equal(x, before[name])}
    assert "bert.pooler.dense.weight" in changed and "classifier.weight" not in changed


def test_the_head_answers_for_chosen_tokens_as_transformers_own_for_all() -> None:
    model = texts.model()
    trained = model.family.language_model(model.module, False).eval()  # type: ignore[attr-defined]
    inputs = {name: torch.from_numpy(x[:5]) for name, x in texts.rows("train").inputs.items()}
    chosen = torch.rand(5, texts.WIDTH) < 0.3
    with torch.no_grad():
        some = trained(inputs, chosen)["tokens"]
        whole = trained.model(**inputs).logits
    torch.testing.assert_close(some, whole[chosen])
    assert trained.model.get_output_embeddings().weight is model.module.get_input_embeddings().weight  # type: ignore[operator]
    assert trained.model.base_model is model.module.base_model


@pytest.mark.parametrize("method", [METHOD, PAIRED], ids=["alone", "paired"])
def test_a_killed_run_resumes_to_the_same_bits_and_labels_have_no_say(
    method: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    whole = texts.model()
    _, logged = run(whole, tmp_path / "whole", method)
    with pytest.raises(KeyboardInterrupt):
        run(texts.model(), tmp_path / "killed", method, kill=2)
    rows = texts.rows
    monkeypatch.setattr(texts, "rows", lambda *a: replace(rows(*a), labels=np.zeros(len(rows(*a)), np.int64)))
    resumed = texts.model()
    _, again = run(resumed, tmp_path / "killed", method)
    assert again == logged[2:]
    assert all(map(torch.equal, texts.weights(resumed).values(), texts.weights(whole).values()))


def test_what_saves_time_and_memory_works_here_too(tmp_path: Path) -> None:
    made: dict[str, Any] = {"precision": "bf16", "checkpoint_activations": True, "accumulate": 2, "layer_decay": 0.9}
    figures, _ = run(texts.model(), tmp_path, PAIRED, **made)
    assert np.isfinite(figures["pretrain_loss"])


def test_an_architecture_that_cannot_say_what_follows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"next_sentence: distilbert has no answer.*architectures that do: bert"):
        run(texts.model("distilbert"), tmp_path, PAIRED)


def test_rows_without_a_word_give_nothing_to_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = texts.rows

    def empty(split: str, count: int = 160) -> Any:
        ids = np.tile(np.array([2, 3] + [0] * (texts.WIDTH - 2)), (count, 1))
        return replace(rows(split, count), inputs={"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)})

    monkeypatch.setattr(texts, "rows", empty)
    for method in (METHOD, PAIRED):
        figures, _ = run(texts.model(), tmp_path, method, epochs=1)
        assert figures["pretrain_masked_loss"] == 0


def test_a_family_without_tokens_says_so(prepared: Path, spec: Any, tmp_path: Path) -> None:
    from components import assemble

    mlp = assemble.create(params.Mlp(family="mlp", hidden=[8], dropout=0.0), spec)
    with pytest.raises(TrainingError, match="family mlp has no tokens to mask; method masked_language is for bert"):
        run(mlp, tmp_path)
