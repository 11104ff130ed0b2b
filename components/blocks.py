"""Rows on their way into splits, on disk: a file for each split and range of hashes, each small enough to sort."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.data import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa


def positions(found: np.ndarray) -> np.ndarray:
    """Where the first 64 bits of each id, uint64 (n, 2), lie in [0, 1]."""
    return found[:, 0].astype(np.float64) / 2.0**64


@dataclass
class Blocks:
    """Rows on disk, in one file for each split and range of hashes. Of a row: its number and its inputs as bytes;
    texts, which have no width, in a second file."""

    folder: Path
    count: int  # ranges of equal width

    def add(
        self,
        start: int,
        side: np.ndarray,
        found: np.ndarray,
        inputs: Mapping[str, np.ndarray],
        texts: Mapping[str, pa.Array],
    ) -> None:
        import pyarrow as pa

        numbers = np.arange(start, start + len(side), dtype=np.int64)
        parts = [x.reshape(len(x), -1) for x in (numbers, *inputs.values())]
        rows = np.concatenate([np.ascontiguousarray(x).view(np.uint8) for x in parts], axis=1)
        block = side.astype(np.int64) * self.count + np.minimum(positions(found) * self.count, self.count - 1).astype(
            int
        )
        order = np.argsort(block, kind="stable")
        edges = np.flatnonzero(np.diff(block[order])) + 1
        for some in np.split(order, edges):
            path = self._path(int(block[some[0]]))
            with path.open("ab") as file:
                file.write(rows[some].tobytes())
            if texts:
                table = pa.table({name: array.take(pa.array(some)) for name, array in texts.items()})
                with path.with_suffix(".arrow").open("ab") as file, pa.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table)

    def read(
        self, split: str, inputs: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], dict[str, pa.Array]]]:
        """(row numbers, inputs shaped and typed as these, texts), range by range; each file is removed once read."""
        first = SPLITS.index(split) * self.count
        for path in map(self._path, range(first, first + self.count)):
            if not path.exists():
                continue
            widths = [x[:1].nbytes for x in inputs.values()]
            rows = np.fromfile(path, np.uint8).reshape(-1, 8 + sum(widths))
            path.unlink()
            ends = np.cumsum([8, *widths])
            yield (
                rows[:, :8].copy().view(np.int64).ravel(),
                {
                    name: rows[:, end - width : end].copy().view(x.dtype).reshape(-1, *x.shape[1:])
                    for (name, x), width, end in zip(inputs.items(), widths, ends[1:], strict=True)
                },
                self._texts(path.with_suffix(".arrow")),
            )

    def _texts(self, path: Path) -> dict[str, pa.Array]:
        import pyarrow as pa

        if not path.exists():
            return {}
        found = []
        with path.open("rb") as file:
            while file.tell() < path.stat().st_size:  # a stream for each time that rows were added
                with pa.ipc.open_stream(file) as stream:
                    found.append(stream.read_all())
        path.unlink()
        table = pa.concat_tables(found).combine_chunks()
        return {name: table.column(name).combine_chunks() for name in table.column_names}

    def _path(self, block: int) -> Path:
        return self.folder / f"{block}.bin"
