"""What the raw rows of a task mean. One file a task, apart from its loss, so that a rule on data retrains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.data import Learned, Rows
from components.params import Expectation
from components.schemas import image_classification, text_classification

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


class Schema(Protocol):
    """Which columns mean what, and what must hold of them."""

    def columns(self, table: pa.Table, params: Any) -> pd.DataFrame:
        """One row for each column of some raw rows: `column`, and what `expectations(params)["columns"]` look at."""
        ...

    def features(self, table: pa.Table, params: Any) -> pa.Table:
        """One row for each raw row: `label` (text), `key` and `split` if they are declared, figures that say what is
        wrong with it, and `content` (16 bytes): a hash of its inputs without the label, null if they cannot be read.
        The same columns and types for every batch."""
        ...

    def expectations(self, params: Any) -> dict[str, list[Expectation]]:
        """Built-in rules on `columns` and on `rows` (the features); `notes` in their arguments say what is wrong."""
        ...

    def read(self, table: pa.Table, params: Any) -> tuple[Mapping[str, Any], np.ndarray]:
        """Valid raw rows to (what they hold, first axis the row, and class numbers int32)."""
        ...

    def keys(self, table: pa.Table, params: Any) -> pa.Array | None:
        """The declared key of each row as text, or None if none is declared."""
        ...

    def splits(self, table: pa.Table, params: Any) -> pa.Array | None:
        """The declared split of each row as text, or None if none is declared."""
        ...

    def content(self, raw: Mapping[str, Any]) -> np.ndarray:
        """128 bits of a hash of what each row holds, as two uint64 (n, 2); equal inputs have equal ones."""
        ...

    def near(self, raw: Mapping[str, Any]) -> np.ndarray | None:
        """As `content`, but equal too for rows that hardly differ; None where that is not known."""
        ...

    def learn(
        self, training: Callable[[], Iterable[Mapping[str, Any]]], params: Any, checkpoint: Path | None, out: Path
    ) -> Learned:
        """What turns raw rows into inputs of one width each: from the training split if it is asked for, and from
        init's checkpoint, if that is declared; files that models need for it go below `out`."""
        ...

    def texts(self, raw: Mapping[str, Any]) -> dict[str, pa.Array]:
        """What must be kept as text beside the inputs, since inputs are made from it anew by another tokenizer."""
        ...

    def shown(self, rows: Rows, numbers: np.ndarray) -> list[str]:
        """These rows for people: text as it is, an image as a `data:image/png` URI. Needs all rows, since an image's
        grey runs from the least to the greatest value of all."""
        ...

    def statistics(self, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
        """What preprocessing needs to know of the training split; goes through all of it."""
        ...


SCHEMAS: dict[str, Schema] = {
    "image_classification": image_classification,
    "text_classification": text_classification,
}
