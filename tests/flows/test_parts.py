"""When a part of `temper up` counts as ready."""

from __future__ import annotations

import base64
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

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
