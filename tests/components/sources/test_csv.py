import contextlib
import os
from pathlib import Path

import pyarrow.csv as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.errors import DataError
from components.params import Csv
from components.sources import csv


def source(path: Path, data: bytes, delimiter: str = ",") -> Csv:
    path.write_bytes(data)
    return Csv(kind="csv", path=str(path), delimiter=delimiter)


@pytest.mark.hardening("E25", "CSV: empty, header only, NUL, no UTF-8, UTF-16, gzip, cut off, ragged, open quote")
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


@pytest.mark.hardening("E25", "CSV: byte order mark, CRLF, CR")
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


@pytest.mark.hardening("E25", "CSV: any bytes")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.binary(max_size=60) | st.text(alphabet='a1,"\n\r \0é', max_size=40).map(str.encode))
def test_any_bytes_give_rows_or_a_data_error(tmp_path: Path, data: bytes) -> None:
    with contextlib.suppress(DataError):
        assert len(csv.read(source(tmp_path / "data.csv", data)).read_all()) > 0


VALUES = ["1", "-7", " 2 ", "1.5", "1e3", "99999999999999999999", "", '""', '"3"', "x", "true", "nan", "inf", " "]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.lists(st.sampled_from(VALUES), min_size=1, max_size=12))
def test_a_columns_type_is_that_of_the_whole_file_however_small_the_blocks(tmp_path: Path, values: list[str]) -> None:
    path = tmp_path / "data.csv"
    params = source(path, "\n".join(["a,b", *(f"{value},z" for value in values)]).encode())
    convert = pc.ConvertOptions(
        null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False, true_values=[], false_values=[]
    )
    whole = pc.read_csv(path, convert_options=convert)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv, "BLOCK_BYTES", 40)
        table = csv.read(params).read_all()
    assert table.schema == whole.schema and table["a"].to_pylist().__repr__() == whole["a"].to_pylist().__repr__()


def test_dates_and_hexadecimal_stay_text(tmp_path: Path) -> None:
    for text in ("2024-01-01", "0x10", "0XA"):
        assert csv.read(source(tmp_path / "d.csv", f"a\n{text}\n".encode())).read_all().to_pydict() == {"a": [text]}


def test_a_late_word_among_numbers_and_a_row_longer_than_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv, "BLOCK_BYTES", 1000)
    data = "\n".join(["a,b", *(f"{i},{i}.5" for i in range(20_000)), "x,1"]).encode()
    with csv.read(source(tmp_path / "data.csv", data)) as reader:
        assert [str(kind) for kind in reader.schema.types] == ["string", "double"]
    wide = [",".join(f"{letter}{i}" for i in range(1000)) for letter in "ab"]
    assert len(wide[0]) > csv.BLOCK_BYTES
    assert len(csv.read(source(tmp_path / "data.csv", "\n".join(wide).encode())).read_all()) == 1


@given(data=st.text(alphabet='a,"\n', max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_an_open_quote_is_found_across_chunks(tmp_path: Path, data: str) -> None:
    """Against a reading character by character."""
    line, opened, inside, closed, before = 1, 0, False, False, "\n"
    for char in data:
        if char == '"' and inside:
            inside, closed = False, True
        elif char == '"' and closed:
            inside, closed = True, False
        elif char == '"' and before in ",\n":
            inside, opened = True, line
        else:
            closed = False
        line += char == "\n"
        before = char
    (tmp_path / "data.csv").write_text(data, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv, "CHUNK_BYTES", 3)
        assert csv._open_quote(tmp_path / "data.csv", ",") == (opened if inside else None)
