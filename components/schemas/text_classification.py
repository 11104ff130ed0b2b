"""Raw rows of text classification: a label and a text, or a pair of texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components import labelled, text
from components.data import Learned, Rows
from components.digests import digests
from components.errors import DataError
from components.labelled import keys as keys
from components.labelled import rule
from components.labelled import splits as splits
from components.params import Expectation, TextClassification, WordPiece

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

WORD = re.compile(r"\w+")
Raw = Mapping[str, Any]  # `text` and, of pairs, `pair`: pyarrow string arrays


def shown(rows: Rows, numbers: np.ndarray) -> list[str]:
    """The texts as they are, the two of a pair on lines of their own."""
    return ["\n".join(texts[number] for texts in rows.texts.values()) for number in numbers]


def statistics(batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """None are needed."""
    for _ in batches:
        pass
    return {}


def texts(raw: Raw) -> dict[str, pa.Array]:
    return dict(raw)


def content(raw: Raw) -> np.ndarray:
    """128 bits of SHA-256 over each row's texts as two uint64 (n, 2); runs of blanks count as one."""
    return digests("\0".join(" ".join(part.split()) for part in parts) for parts in _rows(raw))


def _rows(raw: Raw) -> Iterator[tuple[str, ...]]:
    yield from zip(*(array.to_pylist() for array in raw.values()), strict=True)


def near(raw: Raw) -> np.ndarray:
    """As `content`, but equal too for texts that differ in case, blanks and punctuation alone."""
    return digests("\0".join(" ".join(WORD.findall(part.casefold())) or part for part in parts) for parts in _rows(raw))


def learn(
    training: Callable[[], Iterable[Raw]], params: TextClassification, checkpoint: Path | None, out: Path
) -> Learned:
    """A tokenizer, from the training texts or from the checkpoint; tokenizer.json stands below `out`."""
    if isinstance(params.tokenizer, WordPiece):

        def all_texts() -> Iterator[list[str]]:
            return (array.to_pylist() for raw in training() for array in raw.values())

        made = text.learn(all_texts, params.tokenizer)
    elif checkpoint is None:
        raise DataError("task.tokenizer: is the checkpoint's, and init.model names none; take kind wordpiece")
    else:
        made = text.of_checkpoint(checkpoint)
    vocabulary = text.write(made, params.max_tokens, out)

    def encode(raw: Raw) -> dict[str, np.ndarray]:
        pairs = raw["pair"].to_pylist() if "pair" in raw else None
        return text.encode(made, raw["text"].to_pylist(), pairs, params.max_tokens, vocabulary.padding)

    return Learned(encode, vocabulary)


def _named(params: TextClassification) -> dict[str, str]:
    """The columns with texts: what they are to the name that they have."""
    named = {"text": params.columns.text, "pair": params.columns.pair}
    return {role: name for role, name in named.items() if name is not None}


def read(table: pa.Table, params: TextClassification) -> tuple[dict[str, pa.Array], np.ndarray]:
    """(text, and pair, as pyarrow strings; class numbers int32). Raises DataError for rows that validate sets aside."""
    import pyarrow as pa

    read = {role: text.strings(table.column(name), params.max_characters) for role, name in _named(params).items()}
    labels, bad = labelled.numbers(table, params), np.zeros(len(table), bool)
    for _, faults in read.values():
        bad |= np.array([fault is not None for fault in faults], bool)
    if wrong := int((bad | (labels < 0)).sum()):
        raise DataError(
            f"{wrong} of {len(table)} rows have no readable text or label; run validate on these data first"
        )
    return {role: pa.array(values, pa.string()) for role, (values, _) in read.items()}, labels


def columns(table: pa.Table, params: TextClassification) -> pd.DataFrame:
    """One row a raw column: its role and kind of values; `table` may be the first rows only."""
    roles = {name: role for role, name in _named(params).items()}

    def kind(name: str, role: str | None) -> str | None:
        if role not in ("text", "pair"):
            return None
        found = labelled.kind_of(table.column(name))
        return "text" if found in ("binary", "large_binary") else found

    return labelled.columns(table, params, roles, params.columns.ignored or [], {"text_kind": kind})


def features(table: pa.Table, params: TextClassification) -> pa.Table:
    """label, key, split, content and, of text and pair each, _fault (why it cannot be used), _characters and _words.

    What belongs to a column that is not there is left out.
    """
    import pyarrow as pa

    found: dict[str, Any] = labelled.features(table, params)
    named, usable, usable_texts = _named(params), np.ones(len(table), bool), {}
    for role, name in named.items():
        if name not in table.column_names:
            continue
        values, faults = text.strings(table.column(name), params.max_characters)
        found[f"{role}_fault"] = pa.array(faults, pa.string())
        found[f"{role}_characters"] = pa.array([len(value or "") for value in values], pa.int32())
        found[f"{role}_words"] = pa.array([len((value or "").split()) for value in values], pa.int32())
        usable &= np.array([fault is None for fault in faults], bool)
        usable_texts[role] = pa.array([value or "" for value in values], pa.string())
    if usable_texts.keys() == named.keys():
        raw = pa.py_buffer(content(usable_texts).astype(">u8").tobytes())
        array = pa.Array.from_buffers(pa.binary(16), len(table), [None, raw])
        found["content"] = pa.compute.if_else(pa.array(usable), array, pa.scalar(None, pa.binary(16)))
    return pa.table(found)


def expectations(params: TextClassification) -> dict[str, list[Expectation]]:
    """What must hold of the raw columns (else the run stops) and of each row (else it is set aside)."""
    others, roles = labelled.wanted(params)
    named = _named(params)
    words = f"{', '.join(f'{role} {name!r}' for role, name in named.items())}, {others}"
    kinds: Sequence[str] = ["text", "empty"]

    def faults() -> Iterator[Expectation]:
        for role in named:
            notes = f"the {role} cannot be used"
            yield rule("quarantine", "column_values_to_be_null", notes, column=f"{role}_fault")

    return {
        "columns": [
            *labelled.column_rules(words, [*named, *roles], len(named) + len(roles)),
            rule("stop", "column_values_to_be_in_set", "texts must be text", column="text_kind", value_set=kinds),
        ],
        "rows": [*labelled.row_rules(params), *faults()],
    }
