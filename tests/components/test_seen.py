"""Who repeats whom, against the plain definition."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data import SPLITS
from components.seen import HELD_OUT, Known

contents = st.one_of(st.none(), st.integers(1, 5))  # 0 would be the digest that stands for none
rows = st.tuples(contents, st.sampled_from([None, "a", "b", "c"]), st.sampled_from(SPLITS), st.sampled_from("xyz"))


def repeats(lines: list[tuple], declared: bool) -> dict[str, list[int]]:
    features = {
        "label": pa.array([line[1] for line in lines], pa.string()),
        "content": pa.array([None if x[0] is None else bytes(15) + bytes([x[0]]) for x in lines], pa.binary(16)),
        "key": pa.array([line[3] for line in lines], pa.string()),
    }
    if declared:
        features["split"] = pa.array([line[2] for line in lines], pa.string())
    table, known = pa.table(features), Known(len(lines))
    for start in range(0, len(lines), 3):  # in batches
        known.add(start, table.slice(start, 3))
    return {name: values.tolist() for name, values in known.repeats().items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=20), st.booleans())
def test_repeats_are_what_they_are_called(lines: list[tuple], declared: bool) -> None:
    found = repeats(lines, declared)
    groups = defaultdict(list)
    for i, (content, label, _, _) in enumerate(lines):
        if content is not None and label is not None:
            groups[content].append(i)
    for i, (content, label, split, _) in enumerate(lines):
        same = groups[content] if content is not None and label is not None else []
        higher = [j for j in same if declared and HELD_OUT[lines[j][2]] > HELD_OUT[split]]
        stands = [] if higher else [j for j in same if not declared or lines[j][2] == split]
        assert found["earlier_copies"][i] == sum(j < i and lines[j][1] == label for j in stands)
        assert found["other_labels"][i] == (len({lines[j][1] for j in stands}) - 1 if stands else 0)
        assert (found["held_out_copies"][i] > 0) == bool(higher) if declared else "held_out_copies" not in found
        assert (found["key_clashes"][i] > 0) == (
            len({(x[0], x[1]) for x in lines if x[3] == lines[i][3]} | {lines[i][:2]}) > 1
        )


@pytest.mark.parametrize("labels", [["3", "1"], ["a", "b", "c", "d"]])
def test_labels_are_told_apart_by_all_their_bits(labels: list[str]) -> None:
    from components.seen import _codes, _digest

    codes = _codes(pa.chunked_array([labels]), _digest)
    assert codes.dtype == np.uint64 and codes.tolist() == [_digest(label) for label in labels]
