from pathlib import Path

import pytest

from components.errors import DataError
from components.params import Jsonl
from components.sources import jsonl


def source(path: Path, data: bytes) -> Jsonl:
    path.write_bytes(data)
    return Jsonl(kind="jsonl", path=str(path))


@pytest.mark.hardening("E25", "JSON lines: no rows, cut off, mixed types, a key twice, NaN, no UTF-8")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\n\n", "has no rows"),
        (b'{"a": 1}\n\n{"a": \n', "line 3: is not JSON"),
        (b'{"a": 1}\n{"a": 2', "line 2: is not JSON.*truncated"),
        (b'{"a": 1}\n[1]\n', "line 2: is list, not an object"),
        (b'{"a": 1}\n{"a": "x"}\n', "line 2: 'a' is \"x\", but int64 in the lines before"),
        (b'{"a": [1]}\n{"a": 1}\n', "line 2: 'a' is 1, but list"),
        (b'{"a": 1, "a": 2}\n', "line 1: has a key twice"),
        (b'{"a": NaN}\n', "line 1: NaN is not JSON"),
        (b'{"a": "\xff"}\n', "line 1: byte 0xff is not UTF-8"),
        (b'{"a": 1' + b"0" * 30 + b"}\n", "line 1"),
    ],
)
def test_what_cannot_be_read_whole_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        jsonl.read(source(tmp_path / "data.jsonl", data)).read_all()
    assert "data.jsonl" in str(caught.value)


def test_types_are_settled_over_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "BATCH_BYTES", 1)
    rows = source(tmp_path / "data.jsonl", b'\xef\xbb\xbf{"a": 1}\n{"b": [1, 2]}\n\n{"a": 2.5, "b": [0.5]}\n')
    assert jsonl.read(rows).read_all().to_pydict() == {"a": [1.0, None, 2.5], "b": [None, [1.0, 2.0], [0.5]]}
