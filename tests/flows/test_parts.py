"""When a part of `temper up` counts as ready."""

from __future__ import annotations

import base64
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.errors import ParamsError
from flows import parts
from flows.group import Group


class Guarded(BaseHTTPRequestHandler):
    """As Prefect's server: anybody may ask for its health, and only who has the password for more."""

    password = "temper:mine"

    def do_GET(self) -> None:
        known = "Basic " + base64.b64encode(self.password.encode()).decode()
        free = self.path == "/api/health" or self.headers["Authorization"] == known
        self.send_response(200 if free else 401)
        self.end_headers()
        self.wfile.write(b'"3.8.8"')

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(("password", "ready"), [("temper:mine", True), ("temper:another", False)])
def test_a_server_of_another_group_on_the_port_is_not_ours(
    password: str, ready: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = HTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        part = parts.prefect(Group(password=password, prefect_port=other.server_port))
        assert part.ready(tmp_path / "log") is ready
    finally:
        other.shutdown()
        other.server_close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql+asyncpg://prefect:word@127.0.0.1:1/prefect", "127.0.0.1:1 does not answer"),
        ("postgresql://prefect:word@127.0.0.1/prefect", "must be postgresql+asyncpg://"),
        ("postgresql+asyncpg://prefect:word@127.0.0.1:port/prefect", "must be postgresql+asyncpg://"),
        ("postgresql+asyncpg:///prefect", "must be postgresql+asyncpg://"),
    ],
)
def test_a_database_that_cannot_be_is_told_at_once(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parts.DATABASE, address)
    with pytest.raises(ParamsError) as caught:
        parts.check_database()
    assert said in str(caught.value)
    assert "word" not in str(caught.value).replace("user:password", "")


@pytest.mark.parametrize("address", [None, "sqlite+aiosqlite:////somewhere/prefect.db"])
def test_files_are_no_servers(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(parts.DATABASE, raising=False)
    if address:
        monkeypatch.setenv(parts.DATABASE, address)
    parts.check_database()
