"""Moves of a champion that a real MLflow server keeps: two machines, no lock between them, one journal."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import journal, move, registry, rollback, smoke, tracking, versions
from components.errors import TemperError
from components.smoke import Proof
from tests.components.test_move import PROMOTE, aliases, go, moves, troubles

ROOT = Path(__file__).parents[2]
MACHINES = 5


@pytest.fixture(scope="module")
def address(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, home / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=home,
            env=clean | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    where = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{where}/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.5)
        yield where
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def several(workspace: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    client = tracking.client()
    client.create_registered_model("digits")
    run = client.create_run("0").info
    for number in range(1, 10):
        tags = {"digest": f"digest{number}", "cell": "base/fp32"}
        client.create_model_version("digits", f"{run.artifact_uri}/none", run.run_id, tags)
    monkeypatch.setattr(smoke, "earlier", lambda *_: Proof("package", 32, 0.0, 0.0))


@pytest.mark.hardening("J53", "promotions at once on an MLflow server")
def test_the_server_keeps_the_journal_and_settles_who_was_first(
    several: None, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(1)
    assert not journal.path().exists()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    known = clean | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": address}
    tried = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, str(number)],
            env=known | {"TEMPER_ROOT": str(tmp_path / str(number))},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2, 2 + MACHINES)
    ]
    said = {number: process.communicate()[0].strip() for number, process in enumerate(tried, 2)}
    (winner,) = [number for number, words in said.items() if words == "won"]
    assert all("that base is stale" in words for number, words in said.items() if number != winner), said
    assert moves() == [("promote", None, 1), ("promote", 1, winner)]
    assert aliases() == {"champion": winner, "previous": 1} and troubles() == ""
    void = [entry for entry in registry.versions(journal.NAME) if journal._is_void(entry.version, entry.tags["line"])]
    assert len(registry.versions(journal.NAME)) == 2 + len(void)
    assert registry.names() == ["digits", journal.NAME]

    # Killed after the line, before the aliases: the next call, on another machine, carries it out.
    def killed(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(versions, "set_aliases", killed)
        with pytest.raises(SystemExit):
            go(8)
    assert aliases()["champion"] == winner and "was not carried out" in troubles()
    monkeypatch.setenv("TEMPER_ROOT", str(tmp_path / "another"))
    with pytest.raises(TemperError, match="the champion of digits is version 8, but this was decided against"):
        move.champion("digits", 9, winner, "promote", "", {})
    assert aliases() == {"champion": 8, "previous": winner}

    # A writer that was overtaken between its line and its aliases sets them to what the last line says.
    set_aliases, calls = versions.set_aliases, iter(range(10))

    def overtaken(*given: Any) -> None:
        if next(calls) == 0:
            known = journal.read()
            line = journal.append(known, "digits", "promote", 9, 7, "from another machine", {})
            set_aliases("digits", 7, 9, line.mark)
        set_aliases(*given)

    with monkeypatch.context() as patch:
        patch.setattr(versions, "set_aliases", overtaken)
        go(9)
    assert aliases() == {"champion": 7, "previous": 9} and troubles() == ""
    rollback.back("digits", None, "too slow")
    assert aliases() == {"champion": 9, "previous": 8} and move.out("digits") == ["digest7"]

    # A line that is removed or changed shows.
    tracking.client().set_model_version_tag(journal.NAME, "1", journal.TAG, '{"number": 1, "model": "x"}')
    assert "line 1 cannot be read" in troubles()
    tracking.client().delete_model_version(journal.NAME, "1")
    assert "line 1 is missing" in troubles()
    last = registry.versions(journal.NAME)[-1].version
    tracking.client().delete_model_version(journal.NAME, str(last))
    assert f"line {last}, the last of digits that was carried out, is missing" in troubles()
    go(6)
    assert aliases()["champion"] == 6 and journal.read().lines[-1].number > last, "a number is never given twice"
