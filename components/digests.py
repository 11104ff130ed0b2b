"""128 bits of SHA-256 for each row, as two uint64 (n, 2): to compare rows that are not in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def digests(texts: Iterable[str]) -> np.ndarray:
    """The leading 128 bits; big-endian, so that numbers are ordered as digests are."""
    sha256 = hashlib.sha256
    heads = b"".join([sha256(text.encode()).digest()[:16] for text in texts])
    return np.frombuffer(heads, ">u8").astype(np.uint64).reshape(-1, 2)


def repeated(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows whose digest another row has too, the number of their group); groups together, in them row by row."""
    order = np.lexsort((found[:, 1], found[:, 0]))
    again = np.zeros(len(order), bool)  # as the row before
    for half in (0, 1):
        values = found[order, half]
        same = values[1:] == values[:-1]
        again[1:] = again[1:] & same if half else same
    several = again.copy()
    several[:-1] |= again[1:]
    return order[several], np.cumsum(~again[several]) - 1
