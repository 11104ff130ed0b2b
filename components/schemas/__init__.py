"""What the raw rows of a task mean. One file a task, apart from its loss, so that a rule on data retrains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from components.params import Expectation
from components.schemas import image_classification

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

    def read(self, table: pa.Table, params: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Valid raw rows to (inputs, first axis the row, and class numbers int32)."""
        ...

    def keys(self, table: pa.Table, params: Any) -> pa.Array | None:
        """The declared key of each row as text, or None if none is declared."""
        ...

    def splits(self, table: pa.Table, params: Any) -> pa.Array | None:
        """The declared split of each row as text, or None if none is declared."""
        ...

    def content(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """128 bits of a hash of each row's inputs, as two uint64 (n, 2); equal inputs have equal ones."""
        ...

    def shown(self, inputs: Mapping[str, np.ndarray], numbers: np.ndarray) -> list[str]:
        """These rows of `inputs` for people: text as it is, an image as a `data:image/png` URI. Needs all rows, since
        an image's grey runs from the least to the greatest value of all."""
        ...

    def statistics(self, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
        """What preprocessing needs to know of the training split."""
        ...


SCHEMAS: dict[str, Schema] = {
    "image_classification": image_classification,
}
