"""How a registered model of texts answers, by the one file that ships with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components import package, promote, registry, runtime, text
from components.champion import asked
from components.data import TOKENIZER, Spec, read_rows
from components.errors import TemperError
from components.hashing import sha256_file
from components.loader import Build

TEXTS = ["the goal of the team", "a bank and the market and more of the same and so on then", "rain"]


def opened(folder: Path) -> Build:
    made = Build()
    names = {"build": "build.json", "model": "model.onnx", "tokenizer": TOKENIZER}
    made.load_context(SimpleNamespace(artifacts={name: str(folder / file) for name, file in names.items()}))
    return made


def test_texts_in_every_form_get_the_answers_that_were_measured(shipped: Path, text_spec: Spec) -> None:
    model, session = opened(shipped), runtime.open_build(shipped, 1)
    tokens = text.encode(text.load(shipped / TOKENIZER), TEXTS, None, text_spec.shape[0], text_spec.vocabulary.padding)
    wanted = session.run({name: x.astype(np.int64) for name, x in tokens.items()})
    frame = pd.DataFrame({"text": TEXTS})
    for given in (TEXTS, np.array(TEXTS), frame, frame["text"], {"text": TEXTS}):
        found = model.predict(None, given, {"output": "logits"})
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert model.predict(None, TEXTS).tolist() == [text_spec.classes[i] for i in wanted.argmax(1)]
    np.testing.assert_allclose(model.predict(None, TEXTS, {"output": "probabilities"}).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one text", "put it into a list"),
        ([], "no rows"),
        ([1, 2], "row 0 is int"),
        (["a", None], "row 1 is NoneType"),
        ([["a", "b"]], "row 0 is list"),
        (pd.DataFrame({"words": ["a"]}), "no column text"),
    ],
)
def test_what_are_no_texts_is_refused(shipped: Path, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(shipped).predict(None, given)


@pytest.mark.parametrize("name", [TOKENIZER, "model.onnx"])
def test_a_changed_file_is_refused(shipped: Path, tmp_path: Path, name: str) -> None:
    for file in ("build.json", "model.onnx", TOKENIZER):
        content = (shipped / file).read_bytes()
        (tmp_path / file).write_bytes(content + b" " if file == name else content)
    with pytest.raises(ValueError, match="was changed"):
        opened(tmp_path)


def test_a_champion_reads_todays_texts_with_its_own_tokenizer(
    shipped: Path, prepared_texts: Path, text_spec: Spec, tmp_path: Path
) -> None:
    vocabulary = text.write(text.load(shipped / TOKENIZER), 12, tmp_path)
    other = text_spec.model_copy(update={"shape": [12], "vocabulary": vocabulary})
    assert vocabulary != text_spec.vocabulary
    rows, ours = asked(text_spec, other, prepared_texts, tmp_path), read_rows(prepared_texts, "test", text_spec)
    assert rows is not None and rows.inputs["input_ids"].shape == (len(ours), 12)
    short = ours.inputs["attention_mask"].sum(1) <= 12
    assert short.any() and (rows.inputs["input_ids"][short] == ours.inputs["input_ids"][short, :12]).all()
    assert (rows.row_id == ours.row_id).all() and (rows.labels == ours.labels).all()
    classes = text_spec.model_copy(update={"classes": ["a", "b", "c"]})
    assert asked(text_spec, classes, prepared_texts, shipped) is None


def test_the_tokenizer_of_a_registered_model_is_in_its_manifest(
    shipped: Path, prepared_texts: Path, tracked: Path, decide: Callable[..., Any]
) -> None:
    shutil.copytree(shipped, "work/builds/base/fp32")
    winner = decide("base/fp32", runtime.digest(shipped))["winner"]
    number = promote._register("words", winner, Path("work/builds"), Path("none"), Path("work/matrix"), prepared_texts)
    version = registry.version("words", number)
    assert version is not None
    manifest = json.loads(version.tags["manifest"])
    assert manifest["artifacts/tokenizer.json"] == sha256_file(shipped / TOKENIZER)
    with package.verified("words", number) as found:
        card = (found.folder / "artifacts/CARD.md").read_text("utf-8")
        assert "texts, of which it reads the first 16 tokens" in card and "splits: train " in card
    tokenizer = Path(version.source, "artifacts", TOKENIZER)
    tokenizer.write_text(tokenizer.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(TemperError, match=r"artifacts/tokenizer\.json was changed"), package.verified("words", number):
        pass
