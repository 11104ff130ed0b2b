"""A server between a client and a real one that fails in the ways servers do."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HTML = b"<html><body><h1>Welcome to the hotel network</h1></body></html>"
# What is done with a request: passed on or not, and what comes back.
FAULTS = {
    "500": "not passed on, answered 500",
    "500 after": "carried out, answered 500",
    "429": "not passed on, answered 429 with Retry-After of an hour",
    "html": "not passed on, answered 200 with a page",
    "half": "carried out, half of the answer comes",
    "closed": "carried out, the connection is closed without an answer",
    "silent": "not passed on, no answer comes",
}


@dataclass
class Front:
    """`fault` fails every request while it is set, or the `left` next ones; `seen` counts requests by path."""

    address: str
    behind: str
    fault: str = ""
    only: str = ""  # in the path
    left: int | None = None
    seen: list[str] = field(default_factory=list)
    failed: int = 0

    def takes(self, path: str) -> str:
        self.seen.append(path)
        if not self.fault or self.only not in path or self.left == 0:
            return ""
        self.left = None if self.left is None else self.left - 1
        self.failed += 1
        return self.fault


@contextmanager
def front(behind: str, silence_s: float = 30.0) -> Iterator[Front]:
    """A faulty front of the server at `behind`."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = known.takes(self.path)
            self.close_connection = True
            if fault == "silent":
                over.wait(silence_s)
            elif fault == "500":
                self._answer(500, b"boom")
            elif fault == "429":
                self._answer(429, b"slow down", {"Retry-After": "3600"})
            elif fault == "html":
                self._answer(200, HTML, {"Content-Type": "text/html"})
            else:
                code, headers, said = self._passed_on(body)
                if fault == "500 after":
                    self._answer(500, b"boom")
                elif fault == "half":
                    self._answer(code, said, headers, sent=len(said) // 2)
                elif fault != "closed":
                    self._answer(code, said, headers)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _any

        def _passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            parts = urlsplit(known.behind)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, body, {**headers, "Host": parts.netloc})
            answer = connection.getresponse()
            kept = {"Content-Type": answer.getheader("Content-Type", "application/json")}
            said = answer.read()
            connection.close()
            return answer.status, kept, said

        def _answer(
            self, code: int, said: bytes, headers: dict[str, str] | None = None, sent: int | None = None
        ) -> None:
            self.send_response(code)
            for name, value in {**(headers or {}), "Content-Length": str(len(said)), "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said[:sent])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    known = Front(f"http://127.0.0.1:{server.server_address[1]}", behind)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield known
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@contextmanager
def slow(host: str, port: int) -> Iterator[Throttle]:
    """A TCP relay that passes `bytes_s` bytes a second each way; 0: as they come."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        throttle = Throttle(listener.getsockname()[1])

        def relay(source: socket.socket, sink: socket.socket) -> None:
            try:
                while data := source.recv(256 if throttle.bytes_s else 65536):
                    sink.sendall(data)
                    throttle.passed += len(data)
                    if throttle.bytes_s:
                        time.sleep(len(data) / throttle.bytes_s)
            except OSError:
                pass
            finally:
                for one in (source, sink):
                    one.close()

        def take() -> None:
            while True:
                try:
                    client = listener.accept()[0]
                    server = socket.create_connection((host, port))
                except OSError:
                    return
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=relay, args=pair, daemon=True).start()

        threading.Thread(target=take, daemon=True).start()
        yield throttle


@dataclass
class Throttle:
    port: int
    bytes_s: float = 0.0
    passed: int = 0
