import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.errors import DataError
from components.params import Csv
from components.sources import csv


def source(path: Path, data: bytes, delimiter: str = ",") -> Csv:
    path.write_bytes(data)
    return Csv(kind="csv", path=str(path), delimiter=delimiter)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \r\n\n", "is empty"),
        (b"a,b\n", "a header but no rows"),
        (b"a,b", "a header but no rows|cannot infer"),
        (b"a,b\n1,2\n3,\x00\n", "line 3: has a NUL byte"),
        (b"a,b\n1,2\n3,\xff\n", "line 3: byte 0xff is not UTF-8"),
        ("a,b\n1,é".encode()[:-1], "ends inside a character"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16"),
        (b"\x1f\x8b\x08\x00", "is gzip"),
        (
            b"a,b\n1,2\n\n3\n4,5,6\n7,8\n",
            "2 rows do not fit the header. line 4 has 1 fields, the header 2: '3'; line 5",
        ),
        (b"a,b,c\n1,2,3\n4,5", "the last line is cut off: the file is truncated"),
        (b'a,b\n1,2\n3,"x\n5,6\n', "line 3: opens a quote that nothing closes"),
        (b"a,a\n1,2\n", "twice the same: ..a"),
        (b"a,\n1,2\n", "without a name"),
    ],
)
def test_what_cannot_be_read_whole_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        csv.read(source(tmp_path / "data.csv", data)).read_all()
    assert "data.csv" in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "absent.csv", "No such file"), (tmp_path, "directory")):
        for call in (csv.read, lambda params: csv.observe(params, None)):
            with pytest.raises(DataError, match=said):
                call(Csv(kind="csv", path=str(path), delimiter=","))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_and_line_ends_do_not_matter(tmp_path: Path, mark: str, end: str) -> None:
    data = mark + end.join(["a,b", "1,x", "2.5,", ',"y ""z"""']) + end
    assert csv.read(source(tmp_path / "data.csv", data.encode())).read_all().to_pydict() == {
        "a": [1.0, 2.5, None],
        "b": ["x", None, 'y "z"'],
    }


def test_text_that_looks_special_stays_text(tmp_path: Path) -> None:
    table = csv.read(source(tmp_path / "data.csv", b'a;b\nTrue;5" tall\nNA;x\n', ";")).read_all()
    assert table.to_pydict() == {"a": ["True", "NA"], "b": ['5" tall', "x"]}


def test_a_touched_file_keeps_its_identity_and_is_hashed_again_only_then(tmp_path: Path) -> None:
    params = source(tmp_path / "data.csv", b"a\n1\n")
    identity, stat = csv.observe(params, None)
    planted = {**stat, "sha256": "from the stat file"}
    assert csv.observe(params, planted)[0]["sha256"] == "from the stat file"
    os.utime(params.path, (1, 1))
    assert csv.observe(params, planted)[0] == identity
    source(tmp_path / "data.csv", b"a\n2\n")
    assert csv.observe(params, planted)[0]["sha256"] != identity["sha256"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.binary(max_size=60) | st.text(alphabet='a1,"\n\r \0é', max_size=40).map(str.encode))
def test_any_bytes_give_rows_or_a_data_error(tmp_path: Path, data: bytes) -> None:
    with contextlib.suppress(DataError):
        assert len(csv.read(source(tmp_path / "data.csv", data)).read_all()) > 0
