"""Moves of the champion: one at a time, each from where it was decided, aliases as the journal says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components import journal, move, registry, rollback, smoke, tracking
from components.errors import ParamsError, TemperError
from components.smoke import Proof

ROOT = Path(__file__).parents[2]
Go = Callable[..., None]


@pytest.fixture
def several(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty versions of digits that hold nothing; all of them load."""
    client = tracking.client()
    client.create_registered_model("digits")
    for number in range(1, 31):
        client.create_model_version("digits", "mlruns/none", tags={"digest": f"digest{number}", "cell": "base/fp32"})
    monkeypatch.setattr(smoke, "earlier", lambda *_: Proof("package", 32, 0.0, 0.0))


def go(to: int, digest: str | None = None) -> None:
    evidence = {"digest": digest} if digest else {}
    move.champion("digits", to, registry.registered("digits").aliases.get("champion"), "promote", "faster", evidence)


def aliases() -> dict[str, int]:
    return dict(registry.registered("digits").aliases)


def moves() -> list[tuple[str, int | None, int]]:
    return [(line.action, line.before, line.to) for line in journal.read().lines]


def troubles(of: str = "its files") -> str:
    """What is wrong, but for this: no version here has files."""
    return "\n".join(f"{what}; {remedy}" for what, remedy in rollback.troubles("digits") if of not in what)


PROMOTE = """
import sys
from components import move
from components.errors import TemperError
try:
    move.champion("digits", int(sys.argv[1]), 1, "promote", "faster", {})
except TemperError as error:
    print(error)
else:
    print("won")
"""


@pytest.mark.hardening("J53", "20 promotions of different versions at once")
def test_of_twenty_at_once_one_wins_and_the_others_are_told(several: None) -> None:
    go(1)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    tried = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, str(number)],
            env=clean | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2, 22)
    ]
    said = {number: process.communicate()[0].strip() for number, process in enumerate(tried, 2)}
    (winner,) = [number for number, words in said.items() if words == "won"]
    assert all("decided against version 1: that base is stale" in words for n, words in said.items() if n != winner)
    assert moves() == [("promote", None, 1), ("promote", 1, winner)]
    assert aliases() == {"champion": winner, "previous": 1} and troubles() == ""


KILLED = """
import os, signal
from components import journal, tracking, versions
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def half(text):
    with journal.path().open("a") as file: file.write(text[:40])
    die()
{}
"""


@pytest.mark.parametrize(
    ("at", "moved"),
    [("journal._write = die", False), ("journal._write = half", False), ("versions.set_aliases = die", True)],
)
@pytest.mark.hardening("A8", "kill -9 before, in and after the journal's line")
def test_kill_9_leaves_a_move_whole_or_undone(several: None, at: str, moved: bool) -> None:
    go(1)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    script = KILLED.format(at) + PROMOTE
    done = subprocess.run([sys.executable, "-c", script, "2"], env=clean | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -9
    assert aliases() == {"champion": 1}
    move.finish("digits")
    assert aliases() == ({"champion": 2, "previous": 1} if moved else {"champion": 1})
    go(3)
    assert aliases() == {"champion": 3, "previous": 2 if moved else 1} and troubles() == ""


@pytest.mark.hardening("J56", "two rollbacks in a row, and back")
def test_rollbacks_go_back_one_by_one_and_what_was_bad_stays_out(several: None) -> None:
    for number in (1, 2, 3):
        go(number)
    assert aliases() == {"champion": 3, "previous": 2}
    said = rollback.back("digits", None, "slow on Mondays")
    assert said.startswith("version 2 of digits (base/fp32) is the champion again, before it version 3")
    assert aliases() == {"champion": 2, "previous": 1} and move.out("digits") == ["digest3"]
    rollback.back("digits", None, "slow too")
    assert aliases() == {"champion": 1} and move.out("digits") == ["digest2", "digest3"]
    with pytest.raises(TemperError, match="no earlier champion"):
        rollback.back("digits", None, "again")
    rollback.back("digits", 3, "3 was right after all")  # a person's word brings it back
    assert aliases() == {"champion": 3, "previous": 1} and move.out("digits") == ["digest2"]
    go(2)  # so does `temper promote --again`
    assert aliases() == {"champion": 2, "previous": 3} and move.out("digits") == []
    assert [line.fields["reason"] for line in journal.read().lines if line.action == "rollback"] == [
        "slow on Mondays",
        "slow too",
        "3 was right after all",
    ]
    assert troubles() == ""


@pytest.mark.hardening("J56", "rollbacks without reason, to what never was, to a broken version")
def test_a_rollback_that_cannot_be_is_refused_in_words(several: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3):
        go(number)
    with pytest.raises(ParamsError, match="--reason"):
        rollback.back("digits", None, "  ")
    with pytest.raises(TemperError, match="version 3 of digits is the champion already"):
        rollback.back("digits", 3, "x")
    with pytest.raises(TemperError, match=r"version 9 of digits never was the champion \(1, 2, 3 were\)"):
        rollback.back("digits", 9, "x")

    def broken(*_: object) -> Proof:
        raise TemperError("model.onnx was changed")

    monkeypatch.setattr(smoke, "earlier", broken)
    before = (aliases(), moves())
    with pytest.raises(
        TemperError, match=r"cannot take over: model.onnx was changed; version 3 stays .*rollback 1 --reason ...`"
    ):
        rollback.back("digits", None, "x")
    assert (aliases(), moves()) == before


@pytest.mark.hardening("J55", "the alias is moved by hand")
def test_a_move_by_hand_is_told_and_journalled(several: None) -> None:
    for number in (1, 2, 3):
        go(number)
    tracking.client().set_registered_model_alias("digits", "champion", "1")
    assert move.out("digits") == ["digest3"]
    assert "the champion is version 1, by the journal version 3: it was moved without Temper" in troubles()
    with pytest.raises(TemperError, match="version 1, but this was decided against version 3"):
        move.champion("digits", 4, 3, "promote", "", {})
    go(4)
    assert moves()[3:] == [("found", 3, 1), ("promote", 1, 4)]
    assert aliases() == {"champion": 4, "previous": 1} and troubles() == ""


@pytest.mark.hardening("J55", "version or alias is deleted by hand")
def test_a_deleted_version_or_alias_is_told(several: None) -> None:
    for number in (1, 2, 3):
        go(number)
    tracking.client().delete_registered_model_alias("digits", "champion")
    assert "there is no champion: the alias of version 3 was deleted" in troubles()
    assert "`temper rollback 3 --reason ...` brings it back" in troubles()
    rollback.back("digits", 3, "the alias was deleted")
    assert aliases() == {"champion": 3, "previous": 2}
    assert troubles("nothing").startswith("champion, version 3: its files cannot be read")
    tracking.client().delete_model_version("digits", "3")
    assert "version 3, the champion, was deleted" in troubles()
    rollback.back("digits", None, "3 is gone")
    assert aliases() == {"champion": 2, "previous": 1}


def test_a_store_from_before_the_journal_goes_on(several: None) -> None:
    client = tracking.client()
    for alias, number in (("champion", 2), ("previous", 1)):
        client.set_registered_model_alias("digits", alias, str(number))
    assert move.finish("digits") is None and move.out("digits") == []
    go(3)
    assert moves() == [("found", None, 2), ("promote", 2, 3)]
    assert aliases() == {"champion": 3, "previous": 2}


@pytest.mark.parametrize("step", ["_write", "delete", "set1", "set2", "tag"])
@pytest.mark.hardening("A8", "kill -9 in a rollback")
def test_a_rollback_killed_half_way_is_finished_or_never_was(
    several: None, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from mlflow import MlflowClient

    for number in (1, 2, 3):
        go(number)
    names = {"delete": "delete_registered_model_alias", "tag": "set_registered_model_tag"}
    place, name = (journal, step) if step == "_write" else (MlflowClient, names.get(step, "set_registered_model_alias"))
    real, calls = getattr(place, name), []

    def killed(*given: object) -> object:
        calls.append(given)
        if len(calls) == (2 if step == "set2" else 1):
            raise SystemExit
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(SystemExit):
            rollback.back("digits", None, "bad")
    assert len(set(aliases().values())) == len(aliases())
    if step == "_write":
        assert aliases() == {"champion": 3, "previous": 2} and move.finish("digits") is None
        return
    assert "begun" in troubles()
    assert "version 2 of digits is the champion" in str(move.finish("digits"))
    assert aliases() == {"champion": 2, "previous": 1} and moves()[3:] == [("rollback", 3, 2)]
    assert "not carried out" not in troubles() and move.finish("digits") is None


@pytest.mark.hardening("J56", "a rolled-back version, and the one after it, are deleted")
def test_what_was_rolled_back_stays_out_when_its_version_is_deleted(several: None) -> None:
    for number in (1, 2):
        go(number, f"digest{number}")
    rollback.back("digits", None, "slow on Mondays")
    tracking.client().delete_model_version("digits", "2")
    assert move.out("digits") == ["digest2"] and move.gone("digits") == []
    tracking.client().delete_model_version("digits", "1")
    assert registry.champion("digits") is None and move.out("digits") == ["digest2"]


@pytest.mark.hardening("J55", "the registered model is deleted and made anew under an old journal")
def test_a_model_that_was_made_anew_goes_its_own_way(several: None) -> None:
    for number in (1, 2, 3):
        go(number, f"digest{number}")
    rollback.back("digits", None, "bad")
    client = tracking.client()
    client.delete_registered_model("digits")
    assert move.finish("digits") is None and "there is no champion" in troubles()
    client.create_registered_model("digits")
    for number in (1, 2, 3):
        client.create_model_version("digits", "mlruns/none", tags={"digest": f"new{number}", "cell": "base/fp32"})
        assert move.finish("digits") is None, "the journal's version 2 was another"
        assert f"new{number}" not in move.out("digits")
        go(number, f"new{number}")
    assert aliases() == {"champion": 3, "previous": 2} and troubles() == ""


@pytest.mark.hardening("A8", "kill -9 of a promotion, then a run that looks for the champion")
def test_the_champion_is_what_a_killed_promotion_will_make_it(several: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise SystemExit

    go(1)
    with monkeypatch.context() as patch:
        patch.setattr(move.versions, "set_aliases", killed)
        with pytest.raises(SystemExit):
            go(2)
    found = move.current("digits")
    assert aliases() == {"champion": 1} and found is not None and found.version == 2
    move.finish("digits")
    assert aliases() == {"champion": 2, "previous": 1} and move.current("digits") == found
