"""Text classifiers of transformers by config: they answer, save, reload, export and prune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components import assemble, build, params, parity, session
from components.data import Spec, read_rows, trimmed
from components.errors import ParamsError
from components.families import bert
from components.fit import answers

PLAIN = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
# The smallest of each architecture.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "albert": {**PLAIN, "embedding_size": 8},
    "bert": PLAIN,
    "camembert": PLAIN,
    "deberta": {**PLAIN, **RELATIVE},
    "deberta-v2": {**PLAIN, **RELATIVE},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "electra": {**PLAIN, "embedding_size": 8},
    "mpnet": PLAIN,
    "roberta": PLAIN,
    "xlm-roberta": PLAIN,
}
PARITY = params.Parity(
    batch_sizes=[1, 3], rows=12, max_export_difference=1e-4, min_export_agreement=1.0, min_build_agreement=1.0
)


def for_mpnet(spec: Spec, architecture: str) -> Spec:
    """MPNet's padding is token 1, whatever its config says."""
    assert spec.vocabulary is not None
    swapped = spec.vocabulary.model_copy(update={"padding": 1, "unknown": 0})
    return spec.model_copy(update={"vocabulary": swapped}) if architecture == "mpnet" else spec


def made(architecture: str, spec: Spec, **config: Any) -> Any:
    torch.manual_seed(0)
    section = {"architecture": architecture, "config": ARCHITECTURES[architecture] | config}
    model = assemble.create(params.check_family({"family": "bert", **section}), for_mpnet(spec, architecture))
    for weight in model.module.parameters():  # as it comes they are so small that every text is answered alike
        if weight.ndim > 1:
            weight.data.mul_(12)
    return model


def test_every_architecture_is_tested() -> None:
    assert sorted(ARCHITECTURES) == bert.ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_saves_reloads_and_exports(
    architecture: str, prepared_texts: Path, text_spec: Spec, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    model, rows = made(architecture, text_spec), read_rows(prepared_texts, "validation", text_spec).head(24)
    spec = model.spec
    assemble.save(model, tmp_path / "model")
    said = answers(model, rows)
    assert said.std(0).max() > 1e-2, "every text is answered alike"
    assert torch.equal(answers(assemble.load(tmp_path / "model"), rows), said)
    raw = {name: torch.from_numpy(x) for name, x in rows.inputs.items()}
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        model.module.eval()
        padded = plain(**raw).logits
        torch.testing.assert_close(padded, said, rtol=1e-4, atol=1e-5)
        one = trimmed({name: x[:1] for name, x in raw.items()})
        assert one["input_ids"].shape[1] < spec.shape[0]
        torch.testing.assert_close(model.logits(one), padded[:1], rtol=1e-4, atol=1e-5)
        seen = model.family.features(model.module, raw)
    head = getattr(model.module.classifier, "out_proj", model.module.classifier)
    torch.testing.assert_close(head(seen), padded, rtol=1e-4, atol=1e-5)
    names = model.family.lora_targets(model.module)
    assert names and set(names) <= {name for name, _ in model.module.named_modules()}
    assert not any("pooler" in name or "classifier" in name for name in names)

    build.export(assemble.load(tmp_path / "model"), rows.inputs, tmp_path / "model.onnx")
    opened = session.OnnxSession((tmp_path / "model.onnx").read_bytes(), session.ONNX_SESSION, 1, spec, "export")
    figures = parity.check("torch -> ONNX", build.eager(model), opened.run, rows.inputs, spec, PARITY, parity.EXPORT)
    assert len(figures["grid"]) == 6


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"architecture": "gpt2", "config": {}}, "must be one of albert, bert, "),
        ({"architecture": "modernbert", "config": {}}, "must be one of albert, bert, "),
        ({"architecture": "bert", "config": {"dim": 8}}, "unknown key; bert has: attention_probs_dropout_prob, "),
        ({"architecture": "bert", "config": {"pad_token_id": 3}}, "comes from the data"),
        ({"architecture": "bert", "config": {"id2label": {}}}, "comes from the data"),
        ({"architecture": "bert", "config": {"vocab_size": 10}}, r"vocab_size: must be at least 1\d\d"),
        ({"architecture": "bert", "config": {"max_position_embeddings": 8}}, "must be at least 16"),
        ({"architecture": "roberta", "config": {"max_position_embeddings": 16}}, "must be at least 17"),
        ({"architecture": "bert", "config": {"hidden_size": "wide"}}, "refuses it"),
        ({"architecture": "bert", "config": PLAIN | {"num_attention_heads": 3}}, "cannot be built"),
        ({"architecture": "mpnet", "config": PLAIN}, "takes token 1 for padding"),
        ({"checkpoint": "somewhere"}, "read by init alone"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(section: dict[str, Any], reason: str, text_spec: Spec) -> None:
    with pytest.raises(ParamsError, match=reason):
        assemble.create(params.check_family({"family": "bert", **section}), text_spec)
