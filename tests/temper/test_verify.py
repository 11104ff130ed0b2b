"""`temper verify`, `sign` and `key`, and what `temper doctor` says of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from components import matrix_json, params, registry, signing
from components.errors import TemperError
from temper import checkout
from temper.__main__ import app
from tests.components.packages import UNSIGNED, folder_of

SETTINGS = params.load(Path(__file__).parents[2] / "params.yaml")


def temper(*words: str) -> Result:
    Path(".dvc").mkdir(exist_ok=True)
    return CliRunner().invoke(app, words)


def test_verify_says_by_whom_it_is_signed_or_what_is_wrong(keyed: Path, restored: Path) -> None:
    done = temper("verify", "1")
    assert done.exit_code == 0, done.output
    assert f"files, signed by {signing.configured().fingerprint}" in done.output
    done = temper("verify")  # the champion, version 3
    assert done.exit_code == 1 and "version 3 of digits: is not signed" in done.stderr
    (folder_of(1) / "artifacts/CARD.md").unlink()
    done = temper("verify", "1")
    assert done.exit_code == 1 and "version 1 of digits: artifacts/CARD.md is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 2  # `error:` and one line
    for asked in ("9", "challenger"):
        done = temper("verify", asked)
        assert done.exit_code == 1 and "digits has no version" in done.stderr


@pytest.mark.parametrize("words", [["verify", "1"], ["rollback", "1"], ["promote"], ["matrix", "--against", "1"]])
def test_temporary_files_lie_where_the_next_command_removes_them(
    restored: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """A kill cannot strand them in the machine's folder for such files."""
    where = []

    def first(*given: object) -> str:  # every command asks for the params before it makes a file
        where.append(Path(tempfile.gettempdir()))
        raise TemperError("far enough")

    monkeypatch.setattr(params, "load", first)
    monkeypatch.setattr(registry, "find", first)
    monkeypatch.setattr(matrix_json, "read", first)
    assert temper(*words).exit_code == 1
    assert [folder.parent for folder in where] == [Path(".temper/tmp").absolute()]
    assert list(Path(".temper/tmp").iterdir()) == []


def test_sign(restored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = temper("sign")
    assert done.exit_code == 1 and "no private key is given; set TEMPER_SIGNING_KEY" in done.stderr
    monkeypatch.setenv("TEMPER_SIGNING_KEY", "own")
    assert temper("verify").exit_code == 1
    done = temper("sign")
    assert done.exit_code == 0 and "version 3 of digits is signed by" in done.output
    assert temper("verify").exit_code == 0


def test_a_missing_key_is_one_line(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_VERIFY_KEY", "nowhere")
    done = temper("verify")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[1:] == [
        "  TEMPER_VERIFY_KEY: nowhere cannot be read: No such file or directory; correct it; `temper key` makes a pair"
    ]


def test_key_says_where_it_goes(tmp_path: Path) -> None:
    done = temper("key", str(tmp_path / "mine"))
    assert done.exit_code == 0
    assert f"export TEMPER_SIGNING_KEY={tmp_path}/mine " in done.output
    assert f"export TEMPER_VERIFY_KEY={tmp_path}/mine.pub " in done.output
    again = temper("key", str(tmp_path / "mine"))
    assert again.exit_code == 1 and "is there already" in again.stderr


def findings() -> dict[str, tuple[str, str]]:
    policy = SETTINGS.policy.signing
    return {f.what: (f.level, f.found) for f in checkout._signing("digits", policy.model_dump() if policy else {})}


def test_doctor_tells_an_unsigned_or_broken_champion(restored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings()
    assert found["signing"][0] == "note" and found["champion"][0] == "note"
    assert "unsigned" in found["champion"][1]
    monkeypatch.setenv("TEMPER_VERIFY_KEY", "own.pub")
    found = findings()
    assert found["signing"][0] == "ok" and "nothing is signed here" in found["signing"][1]
    assert found["champion"] == ("fail", "version 3 of digits: is not signed, but a key to verify with is given")
    monkeypatch.delenv("TEMPER_VERIFY_KEY")
    (folder_of(UNSIGNED) / "helper.py").touch()
    level, said = findings()["champion"]
    assert level == "fail" and "helper.py is code" in said
    monkeypatch.setenv("TEMPER_SIGNING_KEY", "nowhere")
    assert findings() == {"signing": ("fail", findings()["signing"][1])}
