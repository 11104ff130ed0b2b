from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import batches as batching
from components import prepare, text
from components.data import Spec, read_rows
from components.digests import digests
from components.errors import DataError
from components.hashing import sha256_tree
from components.params import (
    ImageClassification,
    ImageColumns,
    Prepare,
    Split,
    TextClassification,
    TextColumns,
    WordPiece,
)

SHARES = Prepare(split=Split(train=0.6, validation=0.1, calibration=0.1, test=0.2))


def task(key: str | None = None) -> ImageClassification:
    return ImageClassification(
        kind="image_classification",
        columns=ImageColumns(image="p*", label="label", key=key),
        shape=[1, 2],
        range=[0.0, 1000.0],
        classes=["a", "b"],
    )


def rows(count: int) -> dict[str, list]:
    return {"p0": [float(i) for i in range(count)], "p1": [1.0] * count, "label": ["a", "b"] * (count // 2)}


def run(tmp_path: Path, columns: dict[str, list], key: str | None = None, name: str = "out") -> tuple[dict, Path]:
    valid, out = tmp_path / "valid", tmp_path / name
    valid.mkdir(exist_ok=True), out.mkdir()
    pq.write_table(pa.table(columns), valid / "data.parquet")
    (tmp_path / "checkpoint.json").write_text("null")
    return prepare.run(task(key), SHARES, valid, tmp_path / "checkpoint.json", tmp_path, out), out


def sides(out: Path) -> dict[str, str]:
    return {
        row_id: split
        for split in prepare.SPLITS
        for row_id in pq.read_table(out / f"{split}.parquet")["row_id"].to_pylist()
    }


def test_every_row_lands_on_one_side_and_reads_back(tmp_path: Path) -> None:
    metrics, out = run(tmp_path, rows(400))
    spec = Spec.read(out)
    assert (spec.shape, spec.classes) == ([1, 2], ["a", "b"])
    assert spec.placing and spec.placing.shares == pytest.approx([0.6, 0.1, 0.1, 0.2])
    assert sum(metrics["rows"].values()) == len(sides(out)) == 400
    for name, share in (("train", 0.6), ("test", 0.2)):
        assert metrics["rows"][name] == pytest.approx(400 * share, rel=0.3)
    train = read_rows(out, "train", spec)
    assert train.inputs["image"].shape == (len(train), 1, 2)
    assert (train.labels == train.inputs["image"][:, 0, 0] % 2).all(), "inputs and labels stay together"
    assert spec.statistics["mean"] == pytest.approx([train.inputs["image"].mean()]), "of the training split only"
    at = prepare.positions(digests(train.row_id))
    assert (np.diff(at) >= 0).all(), "hash order"


def test_two_runs_leave_the_same_bytes_whatever_the_order_of_rows(tmp_path: Path) -> None:
    data = rows(100)
    one, two = run(tmp_path, data)[1], run(tmp_path, {k: v[::-1] for k, v in data.items()}, name="two")[1]
    assert sha256_tree(one) == sha256_tree(two)


def test_no_row_changes_sides_when_data_grow(tmp_path: Path) -> None:
    for key in (None, "id"):
        few = {**rows(100), **({"id": list(range(100))} if key else {})}
        many = {**rows(300), **({"id": list(range(300))} if key else {})}
        before = sides(run(tmp_path, few, key, f"few-{key}")[1])
        after = sides(run(tmp_path, many, key, f"many-{key}")[1])
        assert before.items() <= after.items()


@given(
    st.lists(st.text(max_size=8), unique=True, max_size=40),
    st.lists(st.text(max_size=8), unique=True, max_size=40),
    st.tuples(*[st.floats(0.01, 1)] * 4),
)
def test_a_side_depends_on_the_id_alone(ids: list[str], more: list[str], weights: tuple[float, ...]) -> None:
    shares = [weight / sum(weights) for weight in weights]
    grown = list(dict.fromkeys([*more, *ids]))
    before, after = (
        dict(zip(some, prepare.sides(digests(some), shares).tolist(), strict=True)) for some in (ids, grown)
    )
    assert set(before) == set(ids) and set(after) == set(grown)
    assert before.items() <= after.items()


@pytest.mark.hardening("E26", "the same inputs under different keys in train and test")
def test_equal_inputs_under_different_keys_are_a_leak(tmp_path: Path) -> None:
    data = {"p0": [1.0, 2.0] * 50, "p1": [1.0] * 100, "label": ["a", "b"] * 50, "id": list(range(100))}
    with pytest.raises(DataError, match="train and test share 2"):
        run(tmp_path, data, "id")


def test_equal_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="share their id"):
        run(tmp_path, {**rows(100), "id": [1] * 100}, "id")


def test_a_class_without_training_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training split has no row of \['b'\]"):
        run(tmp_path, {**rows(100), "label": ["a"] * 100})


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 rows leave"):
        run(tmp_path, rows(2))


def test_rows_that_validate_would_set_aside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 100 rows"):
        run(tmp_path, {**rows(100), "p1": [None, *[1.0] * 99]})


def declared(tmp_path: Path, data: dict[str, list], name: str = "out") -> dict[str, set[float]]:
    """The first pixels of each split's rows."""
    valid, out = tmp_path / "valid", tmp_path / name
    valid.mkdir(exist_ok=True), out.mkdir()
    pq.write_table(pa.table(data), valid / "data.parquet")
    columns, checkpoint = ImageColumns(image="p*", label="label", key=None, split="part"), tmp_path / "checkpoint.json"
    checkpoint.write_text("null")
    prepare.run(task().model_copy(update={"columns": columns}), SHARES, valid, checkpoint, tmp_path, out)
    spec = Spec.read(out)
    return {split: set(read_rows(out, split, spec).inputs["image"][:, 0, 0].tolist()) for split in prepare.SPLITS}


def test_rows_marked_test_are_the_test_split_and_the_rest_is_divided(tmp_path: Path) -> None:
    data = {**rows(800), "part": ["test" if i % 4 == 1 or i % 4 == 2 else "train" for i in range(800)]}
    found = declared(tmp_path, data)
    assert found["test"] == {float(i) for i in range(800) if data["part"][i] == "test"}
    for name, share in (("train", 0.75), ("validation", 0.125), ("calibration", 0.125)):
        assert len(found[name]) == pytest.approx(400 * share, rel=0.35)
    assert sum(map(len, found.values())) == 800
    data["part"] = ["validation" if i < 100 else part for i, part in enumerate(data["part"])]
    found = declared(tmp_path, data, "two")
    assert found["validation"] == {float(i) for i in range(100)} and found["calibration"]
    plain = declared(tmp_path, {**data, "part": ["train"] * 800}, "three")
    whole = run(tmp_path, rows(800), name="four")[1]
    assert plain["test"] == set(read_rows(whole, "test", Spec.read(whole)).inputs["image"][:, 0, 0].tolist())


@pytest.mark.hardening("E26", "the same row in two declared splits, unknown splits")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["p0"].__setitem__(50, 99.0), "share"),
        (lambda d: d["part"].__setitem__(3, "dev"), "has .'dev'., none of"),
        (lambda d: d["part"].__setitem__(3, None), "has .'None'., none of"),
        (lambda d: d.update(part=["test"] * 100), "no row is marked train"),
    ],
)
def test_declared_splits_that_cannot_stand(tmp_path: Path, change, said: str) -> None:
    data = {**rows(100), "part": ["train"] * 60 + ["test"] * 40}
    change(data)
    with pytest.raises(DataError, match=said):
        declared(tmp_path, data)


@pytest.mark.parametrize("key", [None, "id"])
def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    data = {**rows(2000), **({"id": [f"row {i}" for i in range(2000)]} if key else {})}
    one = run(tmp_path, data, key, "one")[1]
    monkeypatch.setattr(prepare, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(batching, "BATCH_BYTES", 1)
    two = run(tmp_path, data, key, "two")[1]
    assert pq.ParquetFile(two / "train.parquet").num_row_groups > 10
    for name in prepare.SPLITS:
        assert pq.read_table(one / f"{name}.parquet") == pq.read_table(two / f"{name}.parquet")
    assert {path.name for path in two.iterdir()} == {"spec.json", *(f"{name}.parquet" for name in prepare.SPLITS)}
    for name, values in Spec.read(one).statistics.items():
        assert Spec.read(two).statistics[name] == pytest.approx(values, rel=1e-12)


def test_texts_are_kept_beside_their_tokens_and_the_tokenizer_comes_from_the_training_split(tmp_path: Path) -> None:
    columns = TextColumns(text="text", label="label", key=None)
    asked = TextClassification(
        kind="text_classification",
        columns=columns,
        classes=["a", "b"],
        max_tokens=8,
        max_characters=100,
        tokenizer=WordPiece(kind="wordpiece", vocabulary=2000, lowercase=True),
    )
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)} here" for i in range(400)]
    for name in ("valid", "one", "two"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.table({"text": words, "label": ["a", "b"] * 200}), tmp_path / "valid/data.parquet")
    (tmp_path / "checkpoint.json").write_text("null")
    for name in ("one", "two"):
        prepare.run(
            asked,
            SHARES,
            tmp_path / "valid",
            tmp_path / "checkpoint.json",
            tmp_path,
            tmp_path / name,
        )
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two"), "the trainer's own numbers differ each time"
    spec = Spec.read(tmp_path / "one")
    assert (spec.inputs, spec.shape) == ({"input_ids": "int64", "attention_mask": "int64"}, [8])
    tokenizer = text.load(tmp_path / "one/tokenizer.json")
    vocabulary = tokenizer.get_vocab()
    for split in prepare.SPLITS:
        rows = read_rows(tmp_path / "one", split, spec, texts=True)
        for found, ids in zip(rows.texts["text"], rows.inputs["input_ids"], strict=True):
            assert tokenizer.encode(found).ids == ids[ids != spec.vocabulary.padding].tolist()
            whole = found.split()[0] in vocabulary
            assert whole == (split == "train"), "each word stands in one row: only those of training are learned whole"
    assert read_rows(tmp_path / "one", "test", spec).texts == {}
