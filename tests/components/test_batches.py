from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.batches import batches, open_parquet


def test_all_rows_come_in_order_and_none_is_held(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=1_000_000)
    pq.write_table(pa.table({"a": values, "b": values}), tmp_path / "data.parquet", row_group_size=50_000)
    before, seen = pa.total_allocated_bytes(), []
    with open_parquet(tmp_path / "data.parquet") as file:
        for table in batches(file, ["a"]):
            assert len(table) <= 65_536
            seen.append(table.column("a").to_numpy().copy())
        del table
        assert pa.total_allocated_bytes() - before < 2 << 20, "8 MiB were read"
    assert (np.concatenate(seen) == values).all()
