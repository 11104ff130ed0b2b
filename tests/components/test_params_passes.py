"""What params refuse of passes that do not fit the task, the family or the parent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components import params
from components.errors import ParamsError
from tests.components.texts import LOOP

MASK = {"kind": "token_mask", "probability": 0.1}
FLIP = {"kind": "flip", "horizontal": True, "vertical": False, "probability": 0.5}
PARTS = "heads, feed_forward, hidden, layers"
LANGUAGE = {"kind": "masked_language", "ratio": 0.15, "next_sentence": True}


def errors(path: Path, variants: dict[str, Any], **changes: Any) -> list[str]:
    raw = copy.deepcopy(YAML(typ="safe").load(path.read_text("utf-8"))) | changes
    base = raw["variants"]["base"]
    base["from"] = "init"
    raw["variants"] = {"base": base}
    for name, variant in variants.items():
        raw["variants"][name] = base | {"from": "base"} | variant | {"fit": base["fit"] | variant.get("fit", {})}
        if variant.get("pass") == "pretrain":
            raw["variants"][name]["fit"] = LOOP
    try:
        params.check(raw)
    except ParamsError as error:
        return error.errors
    return []


IMAGES = [
    ({"pass": "train", "fit": {"augment": [FLIP, MASK]}}, "fit.augment.1: token_mask is for texts, and this task is"),
    ({"pass": "pretrain", "method": LANGUAGE}, "method.kind: masked_language is for texts, and this task is"),
    ({"pass": "train", "fit": {"layer_decay": 1.5}}, "fit.layer_decay: input should be less than 1"),
]


@pytest.mark.parametrize(("variant", "said"), IMAGES)
def test_of_images(variant: dict[str, Any], said: str, root: Path) -> None:
    found = errors(root / "params.yaml", {"other": variant})
    assert any(line.startswith(f"variants.other.{said}") for line in found), found


@pytest.mark.parametrize("key", ["layer_decay", "unfreeze"])
def test_blocks_are_wanted(key: str, root: Path) -> None:
    value = 0.5 if key == "layer_decay" else 1
    model = {"model": {"family": "mlp", "hidden": [8], "dropout": 0.0}}
    found = errors(root / "params.yaml", {"other": {"pass": "train", "fit": {key: value}}}, init=model)
    assert f"variants.other.fit.{key}: goes by blocks, and mlp has none; families that do: resnet, vit, bert" in found


def test_inner_distillation_wants_tokens_on_both_sides(root: Path) -> None:
    mlp = {"family": "mlp", "hidden": [8], "dropout": 0.0}
    variant = {"pass": "distill", "temperature": 1.0, "weight": 0.5, "model": mlp, "copy_layers": [1]}
    found = errors(root / "params.yaml", {"other": variant}, init={"model": mlp})
    for who in ("teacher", "student"):
        assert any(f"variants.other.copy_layers: its {who} is mlp" in line for line in found), found


def test_lora_starts_from_an_untrained_classifier_only_if_it_trains_one(root: Path) -> None:
    lora = {"from": "init", "pass": "lora", "rank": 2, "alpha": 4.0, "dropout": 0.0}
    found = errors(root / "params.yaml", {"other": lora})
    assert any("lora needs a trained parent" in line and "train_head: true" in line for line in found), found
    assert errors(root / "params.yaml", {"other": lora | {"train_head": True}}) == []


def test_which_families_offer_what_is_said_once() -> None:
    from components.families import FAMILIES

    assert set(params.BLOCKED) == {name for name, family in FAMILIES.items() if hasattr(family, "blocks")}
    assert set(params.LANGUAGE) == {name for name, family in FAMILIES.items() if hasattr(family, "language_model")}
    assert set(params.TOKENS) <= set(params.BLOCKED)


def test_prune_takes_channels_or_parts_of_a_transformer(root: Path) -> None:
    path, mlp = root / "params.yaml", {"model": {"family": "mlp", "hidden": [8], "dropout": 0.0}}
    common = {"pass": "prune", "round_to": 8}
    assert errors(path, {"other": common | {"ratio": 0.5}}, init=mlp) == []
    shares: dict[str, float]
    for shares in ({}, {"ratio": 0.5, "heads": 0.5}):
        found = errors(path, {"other": common | shares}, init=mlp)
        assert found == ["variants.other.prune: must have either ratio, for channels, or at least one of " + PARTS], (
            found
        )
    found = errors(path, {"other": common | {"heads": 0.5, "hidden": 0.25}})
    assert [line.split(", got")[0] for line in found] == ["variants.other.prune: hidden must be at least heads"]
    found = errors(path, {"other": common | {"layers": 1.0}})
    assert found == ["variants.other.layers: input should be less than 1, got 1.0"]
    assert errors(path, {"other": common | {"layers": 0.5}}, init=mlp) == [
        "variants.other: shares of a transformer's parts are not for mlp; take ratio"
    ]
    news = YAML(typ="safe").load((root / "presets" / "news.yaml").read_text("utf-8"))
    texts = {key: news[key] for key in ("task", "validate", "init")} | {"source": news["source"][1]}
    assert errors(path, {"other": common | {"ratio": 0.5}}, **texts) == [
        "variants.other: ratio, of channels, is not for bert; take at least one of " + PARTS
    ]
    assert errors(path, {"other": common | {"heads": 0.5}}, **texts) == []


def test_a_corpus_is_for_texts_and_for_a_pass_that_reads_it(root: Path) -> None:
    corpus = {"source": {"kind": "jsonl", "path": "more.jsonl"}, "column": "text"}
    split = {"train": 0.6, "validation": 0.1, "calibration": 0.1, "test": 0.2}
    prepare = {"split": split, "corpus": corpus}
    assert errors(root / "params.yaml", {}, prepare=prepare) == [
        "prepare.corpus: is for texts, and this task is image_classification; take it out"
    ]
    whole = YAML(typ="safe").load((root / "params.yaml").read_text("utf-8"))
    news = YAML(typ="safe").load((root / "presets/news.yaml").read_text("utf-8"))
    keys = ("init", "task", "targets")
    base = copy.deepcopy(whole) | {key: news[key] for key in keys} | {"source": corpus["source"], "prepare": prepare}
    base["variants"] = {"base": news["variants"]["base"]}
    with pytest.raises(ParamsError, match=r"prepare\.corpus: no variant learns from it; add one with 'pass: pretrain'"):
        params.check(base)
    base["variants"] |= {"pre": {"from": "init", "pass": "pretrain", "method": LANGUAGE, "fit": LOOP}}
    params.check(base)
