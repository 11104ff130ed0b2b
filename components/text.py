"""Texts to tokens and back: the tokenizer that `prepare` learns or takes over, a tokenizer.json that ships.

Of the `tokenizers` library only: a file of JSON, in which nothing can be executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.data import TOKENIZER, Vocabulary
from components.errors import DataError
from components.hashing import sha256_file
from components.params import WordPiece
from components.values import plain

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

# One thread: which process forks afterwards is not known here, and the library warns about that.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SPECIAL = {"padding": "[PAD]", "unknown": "[UNK]", "start": "[CLS]", "separator": "[SEP]", "mask": "[MASK]"}
# What the same tokens are called by tokenizers of other kinds.
CALLED = {
    "padding": ("[PAD]", "<pad>"),
    "unknown": ("[UNK]", "<unk>"),
    "start": ("[CLS]", "<s>"),
    "separator": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
BATCH = 1000  # texts at once


def learn(texts: Callable[[], Iterable[Sequence[str]]], params: WordPiece) -> Tokenizer:
    """A WordPiece tokenizer as BERT's, of at most this many pieces; the same texts give the same one.

    `texts` is gone through twice: the trainer numbers the letters that go on a word in the order of a hash table,
    which differs from process to process, and breaks ties by these numbers. Pieces that are given to it first keep
    their order.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = list(SPECIAL.values())

    def trained(known: Sequence[str], size: int) -> dict[str, int]:
        made = Tokenizer(models.WordPiece(unk_token=SPECIAL["unknown"]))
        made.normalizer, made.pre_tokenizer = normalizer, splitter
        trainer = trainers.WordPieceTrainer(
            vocab_size=max(size, 1), special_tokens=[*special, *known], show_progress=False
        )
        made.train_from_iterator(texts(), trainer)
        found: dict[str, int] = made.get_vocab(with_added_tokens=True)
        return found

    normalizer, splitter = normalizers.BertNormalizer(lowercase=params.lowercase), pre_tokenizers.BertPreTokenizer()
    letters = sorted(piece for piece in trained([], 1) if len(piece) == 3 and piece.startswith("##"))
    vocabulary = sorted(trained(letters, params.vocabulary).items(), key=lambda item: item[1])
    made = Tokenizer(models.WordPiece(dict(vocabulary), unk_token=SPECIAL["unknown"], max_input_chars_per_word=100))
    made.normalizer, made.pre_tokenizer, made.decoder = normalizer, splitter, decoders.WordPiece()
    made.add_special_tokens(special)
    start, separator = SPECIAL["start"], SPECIAL["separator"]
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {separator}",
        pair=f"{start} $A {separator} $B:1 {separator}:1",
        special_tokens=[(word, made.token_to_id(word)) for word in (start, separator)],
    )
    return made


def load(path: Path) -> Tokenizer:
    """Raises DataError for a file that is no tokenizer."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; bring the tokenizer's file back") from None
    except BaseException as error:  # the library raises Exception itself, and its Rust code panics, which is none
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DataError(f"{path}: is no tokenizer: {' '.join(str(error).split())[:200]}; save it again") from None


def of_checkpoint(folder: Path) -> Tokenizer:
    """The tokenizer beside a checkpoint's weights: its tokenizer.json, or what transformers makes of its vocabulary.

    Raises DataError if there is neither.
    """
    if (folder / TOKENIZER).exists():
        return load(folder / TOKENIZER)
    if not any((folder / name).exists() for name in ("vocab.txt", "merges.txt")):
        raise DataError(
            f"{folder}: has neither {TOKENIZER} nor vocab.txt or merges.txt beside its weights; where its own library "
            "is at hand, AutoTokenizer.from_pretrained() and save_pretrained() write the first"
        )
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
        found: Tokenizer = made.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder}: its vocabulary makes no tokenizer: {reason}; bring its {TOKENIZER}") from None
    return found


def write(tokenizer: Tokenizer, max_tokens: int, out: Path) -> Vocabulary:
    """Write tokenizer.json, which cuts to `max_tokens` and pads to the longest, below `out`.

    Raises DataError for a tokenizer without padding, start, separator or mask token.
    """
    ids = {
        use: next((found for word in words if (found := tokenizer.token_to_id(word)) is not None), None)
        for use, words in CALLED.items()
    }
    if missing := [f"{use} ({' or '.join(CALLED[use])})" for use, found in ids.items() if found is None]:
        raise DataError(f"the tokenizer has no token for {', '.join(missing)}; take one of a masked language model")
    tokenizer.enable_truncation(max_tokens, strategy="longest_first")
    padding = ids["padding"] or 0
    tokenizer.enable_padding(pad_id=padding, pad_token=tokenizer.id_to_token(padding))
    text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1)
    (out / TOKENIZER).write_text(text + "\n", "utf-8")
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    ends = [found for mark in ".!?" if (found := tokenizer.token_to_id(mark)) is not None]
    sha256 = sha256_file(out / TOKENIZER)
    return Vocabulary(size=size, sha256=sha256, sentence_ends=ends, **ids)  # type: ignore[arg-type]


def strings(column: pa.ChunkedArray, most: int) -> tuple[list[str | None], list[str | None]]:
    """(each text, why it cannot be used)"""
    import pyarrow as pa

    array = plain(column)
    if pa.types.is_large_string(array.type) or pa.types.is_string(array.type):  # Arrow does not look at the bytes
        array = array.cast(pa.large_binary())
    elif not (pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)):
        array = pa.array([None if value is None else str(value).encode() for value in array.to_pylist()], pa.binary())
    found: list[str | None] = []
    faults: list[str | None] = []
    for raw in array.to_pylist():
        value, fault = None, None
        try:
            value = None if raw is None else raw.decode("utf-8")
        except UnicodeDecodeError as error:
            fault = f"not UTF-8 from byte {error.start} on"
        if value is None:
            fault = fault or "missing"
        elif not value.strip():
            fault = "empty"
        elif "\0" in value:
            fault = f"holds NUL, at character {value.index(chr(0))}"
        elif len(value) > most:
            fault = f"{len(value):,} characters (task.max_characters {most:,})"
        found.append(value)
        faults.append(fault)
    return found, faults


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, width: int, padding: int
) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and, with `pairs`, token_type_ids: int32 (rows, width), padded on the right."""
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    if pairs is None:
        del names["token_type_ids"]
    filled = {"input_ids": padding, "attention_mask": 0, "token_type_ids": 0}
    found = {name: np.full((len(texts), width), filled[name], np.int32) for name in names}
    for start in range(0, len(texts), BATCH):
        some: list[Any] = list(texts[start : start + BATCH])
        if pairs is not None:
            some = list(zip(some, pairs[start : start + BATCH], strict=True))
        try:
            encoded = tokenizer.encode_batch(some)
        except BaseException as error:
            if isinstance(error, Exception | KeyboardInterrupt | SystemExit):
                raise
            reason = " ".join(str(error).split())[:200]  # Rust's panic
            raise DataError(f"the tokenizer fails on a text: {reason}; its file is damaged, save it again") from None
        for row, encoding in enumerate(encoded, start):
            for name, attribute in names.items():
                ids = getattr(encoding, attribute)
                found[name][row, : len(ids)] = ids
    return found
