"""The rounds of a benchmark on disk: how long every single call took, and what can be said of them.

rounds.parquet has one row a turn: cell, batch_size, round and the nanoseconds of each call, in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import TemperError

FILE = "rounds.parquet"
REMEDY = "run `dvc repro -f -s benchmark` to measure again"

# cell, batch size: the seconds of the calls of each round (calls,)
Turns = Mapping[str, Mapping[int, Sequence[np.ndarray]]]
Medians = Mapping[str, Mapping[int, np.ndarray]]  # cell, batch size: seconds of a call (rounds,)


def write(turns: Turns, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [
        {"cell": cell, "batch_size": size, "round": number, "nanoseconds": np.rint(seconds * 1e9).astype(np.int64)}
        for cell, by_size in turns.items()
        for size, by_round in by_size.items()
        for number, seconds in enumerate(by_round)
    ]
    # What one call takes differs little from the one before: about two bytes a call.
    pq.write_table(
        pa.Table.from_pylist(lines, _schema()),
        folder / FILE,
        compression="zstd",
        use_dictionary=["cell"],
        column_encoding={"nanoseconds.list.element": "DELTA_BINARY_PACKED"},
    )


def _schema() -> Any:
    import pyarrow as pa

    columns = {"cell": pa.string(), "batch_size": pa.int32(), "round": pa.int32()}
    return pa.schema([*columns.items(), ("nanoseconds", pa.list_(pa.int64()))])


def read(folder: Path) -> Turns:
    """Raises TemperError, naming the file, if it is truncated, foreign, or its rounds cannot be paired."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / FILE
    try:
        table = pq.read_table(path).cast(_schema())
    except (OSError, pa.ArrowException, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise TemperError(f"{path}: is no record of timed rounds: {said}; {REMEDY}") from None
    turns: dict[str, dict[int, dict[int, np.ndarray]]] = {}
    for line in table.to_pylist():
        seconds = np.array(line["nanoseconds"] or [0]) / 1e9
        at = f"{path}: round {line['round']} of {line['cell']} at batch {line['batch_size']}"
        by_round = turns.setdefault(line["cell"], {}).setdefault(line["batch_size"], {})
        if not (seconds > 0).all():
            raise TemperError(f"{at} has no calls, or some that took no time; {REMEDY}")
        if line["round"] in by_round:
            raise TemperError(f"{at} is there twice; {REMEDY}")
        by_round[line["round"]] = seconds
    for size in {size for by_size in turns.values() for size in by_size}:
        together = {cell: set(by_size[size]) for cell, by_size in turns.items() if size in by_size}
        wanted = set(range(max(map(len, together.values()))))
        if short := sorted(cell for cell, numbers in together.items() if numbers != wanted):
            raise TemperError(
                f"{path}: of {len(wanted)} rounds at batch {size} some are missing for {', '.join(short)}, "
                f"so they cannot be paired; {REMEDY}"
            )
    return {
        cell: {size: [by_round[number] for number in sorted(by_round)] for size, by_round in sorted(by_size.items())}
        for cell, by_size in turns.items()
    }


def medians(turns: Turns) -> Medians:
    """What a call took in each round: the median, which a call that was interrupted does not move."""
    return {
        cell: {size: np.array([np.median(seconds) for seconds in by_round]) for size, by_round in by_size.items()}
        for cell, by_size in turns.items()
    }


def latency(by_round: Sequence[np.ndarray], size: int) -> dict[str, float | int | None]:
    """Quantiles over single calls, None where there are too few to have one; rows a second, median over rounds."""
    calls = np.concatenate(list(by_round))

    def quantile(share: float) -> float | None:
        enough = len(calls) >= math.ceil(round(1 / (1 - share), 6))
        return float(np.quantile(calls, share)) * 1000 if enough else None

    return {
        "p50_ms": quantile(0.5),
        "p95_ms": quantile(0.95),
        "p99_ms": quantile(0.99),
        "rows_per_s": float(size / np.median([seconds.mean() for seconds in by_round])),
        "calls": len(calls),
    }
