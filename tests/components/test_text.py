import json
from pathlib import Path

import pytest

from components import text
from components.errors import DataError
from components.params import WordPiece

TEXTS = ["The cat sat on the mat.", "A dog ran to the cat!", "Cats and dogs ran on mats."] * 5
PARAMS = WordPiece(kind="wordpiece", vocabulary=100, lowercase=True)


def test_pairs_have_types_and_long_texts_are_cut_from_both(tmp_path: Path) -> None:
    tokenizer = text.learn(lambda: [TEXTS], PARAMS)
    vocabulary = text.write(tokenizer, 8, tmp_path)
    found = text.encode(tokenizer, ["the cat", "the " * 50], ["a dog", "a " * 50], 8, vocabulary.padding)
    ids, mask, types = (found[name].tolist() for name in ("input_ids", "attention_mask", "token_type_ids"))
    start, end = vocabulary.start, vocabulary.separator
    assert ids[0][0] == start and ids[0].count(end) == 2 and types[0][:4] == [0, 0, 0, 0] and 1 in types[0]
    assert mask[1] == [1] * 8 and ids[1].count(end) == 2, "both separators survive the cut"
    assert [sum(row) for row in types] == [sum(mask[0]) - 4, 4]


def test_the_file_alone_encodes_as_the_tokenizer_that_wrote_it(tmp_path: Path) -> None:
    tokenizer = text.learn(lambda: [TEXTS], PARAMS)
    vocabulary = text.write(tokenizer, 8, tmp_path)
    again = text.load(tmp_path / "tokenizer.json")
    asked = ["the cat", "A DOG ran to the cat on the mat and further"]
    batch = again.encode_batch(asked)
    assert [one.ids for one in batch] == [one.ids for one in tokenizer.encode_batch(asked)]
    assert {len(one.ids) for one in batch} == {8} and batch[0].ids[-1] == vocabulary.padding
    assert again.encode("[MASK]").ids[1] == vocabulary.mask and len(again.get_vocab()) == vocabulary.size <= 100


def test_letters_that_go_on_a_word_are_no_tokens_in_a_text() -> None:
    tokenizer = text.learn(lambda: [TEXTS], PARAMS)
    assert "##a" in tokenizer.get_vocab()
    assert tokenizer.token_to_id("##a") not in tokenizer.encode("##a").ids


@pytest.mark.hardening("G34", "tokenizer files that are none")
@pytest.mark.parametrize("content", ["", "{}", "not json", json.dumps({"model": {"type": "Pickle"}})])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json: is no tokenizer"):
        text.load(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    plain = Tokenizer(models.WordPiece({"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]"))
    with pytest.raises(DataError, match=r"no token for mask"):
        text.write(plain, 8, tmp_path)


def test_of_an_older_checkpoint_transformers_makes_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = text.learn(lambda: [TEXTS], PARAMS)
    pieces = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in pieces), "utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), "utf-8")
    made = text.of_checkpoint(tmp_path)
    for asked in (TEXTS[0], "Dogs ran, and a bird [MASK]"):
        assert made.encode(asked).ids == tokenizer.encode(asked).ids
    assert text.write(made, 8, tmp_path).size == len(pieces)


def test_of_an_older_checkpoint_of_roberta_too(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(TEXTS, vocab_size=300, special_tokens=special, show_progress=False)
    made.save_model(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}), "utf-8")
    found = text.of_checkpoint(tmp_path)
    assert found.encode("the cat").ids == [0, *made.encode("the cat").ids, 2]
    vocabulary = text.write(found, 8, tmp_path)
    assert (vocabulary.start, vocabulary.padding, vocabulary.separator, vocabulary.mask) == (0, 1, 2, 4)


@pytest.mark.parametrize("files", [[], ["spiece.model"]])
def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path, files: list[str]) -> None:
    for name in ["config.json", *files]:
        (tmp_path / name).write_text(json.dumps({"model_type": "bert"}), "utf-8")
    with pytest.raises(DataError, match=r"has neither tokenizer\.json nor vocab\.txt"):
        text.of_checkpoint(tmp_path)
