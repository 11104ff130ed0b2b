"""Pairs of texts from raw rows to the answers of a registered model, fp32 and INT8."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components import assemble, build, graph, params, prepare, runtime
from components.data import TOKENIZER, Spec, read_rows
from components.loader import Build
from components.parity import check_build
from components.targets import TARGETS
from tests.contracts.test_members import PARITY, TINY, target

WORDS = "red green blue one two three four five".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for name in ("valid", "prepared"):
        (root / name).mkdir()
    texts = [" ".join(random.choice(WORDS, 1 + i % 6)) + f" {i}" for i in range(200)]
    pairs = [" ".join(random.choice(WORDS, 1 + i % 5)) for i in range(200)]
    table = pa.table({"first": texts, "second": pairs, "label": ["same", "other"] * 100})
    pq.write_table(table, root / "valid/data.parquet")
    (root / "checkpoint.json").write_text("null", "utf-8")
    task = params.TextClassification(
        kind="text_classification",
        columns=params.TextColumns(text="first", pair="second", label="label", key=None),
        classes=["same", "other"],
        max_tokens=16,
        max_characters=100,
        tokenizer=params.WordPiece(kind="wordpiece", vocabulary=100, lowercase=True),
    )
    shares = params.Prepare(split=params.Split(train=0.5, validation=0.2, calibration=0.1, test=0.2))
    prepare.run(task, shares, root / "valid", root / "checkpoint.json", root, root / "prepared")
    return root / "prepared"


@pytest.mark.parametrize("kind", ["onnx_fp32", "onnx_int8_dynamic", "onnx_int8_static"])
def test_a_pair_is_answered_as_its_two_texts_in_their_order(prepared: Path, tmp_path: Path, kind: str) -> None:
    spec = Spec.read(prepared)
    assert list(spec.inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    torch.manual_seed(0)
    model = assemble.create(params.check_family({"family": "bert", **TINY["bert"]}), spec)
    rows = read_rows(prepared, "validation", spec, texts=True)
    build.export(model, rows.inputs, tmp_path / "export.onnx")
    figures = TARGETS[kind].run(tmp_path / "export.onnx", target(kind), graph.context(prepared, 1, tmp_path), tmp_path)
    runtime.ship(target(kind), tmp_path, prepared, figures)
    check_build(kind, tmp_path / "export.onnx", tmp_path, prepared, PARITY, 1)
    made = Build()
    files = {"build": "build.json", "model": "model.onnx", "tokenizer": TOKENIZER}
    made.load_context(SimpleNamespace(artifacts={name: str(tmp_path / file) for name, file in files.items()}))
    asked = list(zip(rows.texts["text"], rows.texts["pair"], strict=True))
    found = made.predict(None, asked, {"output": "logits"})
    longest = int(rows.inputs["attention_mask"].sum(1).max())
    wanted = runtime.open_build(tmp_path, 1).run({name: x[:, :longest] for name, x in rows.inputs.items()})
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    frame = pd.DataFrame({"text": rows.texts["text"], "pair": rows.texts["pair"]})
    np.testing.assert_allclose(made.predict(None, frame, {"output": "logits"}), wanted, atol=1e-5)
    turned = made.predict(None, [pair[::-1] for pair in asked], {"output": "logits"})
    assert np.abs(turned - wanted).max() > 1e-3
    with pytest.raises(ValueError, match="pairs of texts"):
        made.predict(None, ["one text"])
