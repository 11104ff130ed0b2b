"""The journal: what was written stays as it was, or it shows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from components import journal
from components.journal import Line

FILE = Path("mlruns/promotions.jsonl")
OLD = {"time": "2026-01-01T00:00:00Z", "who": "me", "host": "here", "model": "digits", "from": None, "to": 1}


def add(before: int | None, to: int, model: str = "digits") -> Line:
    return journal.append(journal.read(), model, "promote", before, to, "because", {"cell": "base/fp32"})


@pytest.fixture
def four(workspace: Path) -> list[Line]:
    return [add(None, 1), add(1, 2), add(None, 1, "news"), add(2, 3)]


def test_each_line_holds_the_hash_of_the_line_before(four: list[Line]) -> None:
    known = journal.read()
    assert (known.lines, known.faults, known.highest) == (four, [], 4)
    assert [line.fields["line_before_sha256"] for line in four] == [None, *(line.sha256 for line in four[:-1])]
    assert [(line.before, line.to) for line in known.of("digits")] == [(None, 1), (1, 2), (2, 3)]
    assert known.last("digits") == four[3] and known.last("news") == four[2] and known.last("other") is None
    assert {"who", "host", "time", "reason", "evidence"} <= set(four[0].fields)
    assert FILE.read_text("utf-8") == "".join(f"{line.text}\n" for line in four)


@pytest.mark.parametrize(
    ("order", "changes", "words"),
    [
        ([0, 1, 2, 3], {1: ("because", "no reason")}, "line 3 does not follow the line before it"),
        ([0, 1, 2, 3], {1: ('"to": 2', '"to": 9')}, "line 3 does not follow"),
        ([0, 1, 2, 3], {1: ("{", "")}, "line 2 cannot be read"),
        ([0, 2, 3], {}, "line 2 says that it is number 3: lines were removed"),
        ([1, 2, 3], {}, "line 1 says that it is number 2"),
        ([0, 2, 1, 3], {}, "line 2 says that it is number 3: lines were removed or reordered"),
        ([0, 1, 2], {}, "line 4, the last of digits that was carried out, is missing"),
        ([0, 1, 2, 3], {3: ("because", "no reason")}, "line 4, the last of digits that was carried out, was changed"),
        ([], {}, "line 4, the last of digits that was carried out, is missing"),
    ],
)
def test_what_was_changed_shows(
    four: list[Line], order: list[int], changes: dict[int, tuple[str, str]], words: str
) -> None:
    mark, lines = four[3].mark, [line.text for line in four]
    for number, (old, new) in changes.items():
        lines[number] = lines[number].replace(old, new, 1)
    FILE.write_text("".join(f"{lines[number]}\n" for number in order), "utf-8")
    faults = journal.tampered(journal.read(), "digits", mark)
    assert any(words in fault for fault in faults), faults


def test_a_line_put_in_by_hand_shows(four: list[Line]) -> None:
    with FILE.open("a") as file:
        file.write(json.dumps(OLD | {"from": 3, "to": 1}) + "\n")
    assert journal.read().faults == ["line 5 names no line before it, though earlier ones do: it was put there by hand"]


def test_what_follows_a_broken_line_is_still_held(four: list[Line]) -> None:
    FILE.write_text(FILE.read_text("utf-8").replace('"to": 2', '"to": 9'), "utf-8")
    broken = journal.read().faults
    add(3, 4)
    assert journal.read().faults == broken
    FILE.write_text(FILE.read_text("utf-8").replace('"to": 4', '"to": 5'), "utf-8")
    assert len(journal.tampered(journal.read(), "digits", add(4, 5).mark)) > len(broken)


@pytest.mark.hardening("A8", "killed in the middle of the journal's line")
def test_a_line_that_was_being_written_is_cut_off(four: list[Line]) -> None:
    with FILE.open("a") as file:
        file.write('{"number": 5, "mod')
    known = journal.read()
    assert known.lines == four and len(known.faults) == 1 and "line 5 is cut off" in known.faults[0]
    assert add(3, 4).number == 5
    assert journal.read().faults == []


def test_lines_from_before_they_were_chained_come_first(workspace: Path) -> None:
    FILE.parent.mkdir()
    FILE.write_text(json.dumps(OLD) + "\n" + json.dumps(OLD | {"from": 1, "to": 2}) + "\n", "utf-8")
    third = add(2, 3)
    known = journal.read()
    assert known.faults == [] and third.number == 3
    assert third.fields["line_before_sha256"] == known.lines[1].sha256


def test_who_was_champion_at_a_moment(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hour, (before, to) in enumerate([(None, 1), (1, 2), (2, 1)], 1):
        monkeypatch.setattr(journal.time, "strftime", lambda *_, hour=hour: f"2026-11-01T0{hour}:00:00Z")
        add(before, to)
    known = journal.read()
    at = [journal.at(known, "digits", f"2026-11-01T{moment}:00Z") for moment in ("00:59", "01:00", "02:30", "12:00")]
    assert [line and line.to for line in at] == [None, 1, 2, 1]


@pytest.mark.hardening("A8", "the journal cannot be written")
def test_a_journal_that_cannot_be_written_moves_nothing(four: list[Line]) -> None:
    FILE.unlink()
    FILE.mkdir()
    with pytest.raises(OSError, match="directory"):  # reading comes first
        add(3, 4)


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as the owner of a folder outside."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(journal.getpass, "getuser", nameless)
    assert journal._user() == f"uid {os.getuid()}"
