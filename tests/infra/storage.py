"""Real storage servers on loopback for tests: S3 (nanio, which checks signatures) and SSH (asyncssh, with SFTP)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Storage:
    """Where a DVC remote can be, the folder behind it, and what a client needs in its environment."""

    url: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    endpoint: str | None = None

    def files(self) -> list[Path]:
        """What is stored, without the server's own records."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and ".nanio-meta" not in path.parts)


@contextlib.contextmanager
def s3(folder: Path, bucket: str = "models") -> Iterator[Storage]:
    """An S3-compatible server with one bucket; skips where nanio is not installed."""
    if find_spec("nanio") is None or find_spec("s3fs") is None:
        pytest.skip("no S3 server or client: pip install '.[dev,s3]'")
    key, secret, port = "tester", secrets.token_hex(16), free_port()
    (folder / bucket).mkdir(parents=True)
    server = subprocess.Popen(
        [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)],
        env={**os.environ, "NANIO_ACCESS_KEY": key, "NANIO_SECRET_KEY": secret},
        stdout=(folder.parent / "s3.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        _await(port, server, folder.parent / "s3.log")
        environment = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
        endpoint = f"http://127.0.0.1:{port}"
        yield Storage(f"s3://{bucket}/dvc", folder / bucket, environment, endpoint)
    finally:
        server.terminate()
        server.wait(20)


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def ssh(folder: Path) -> Iterator[Storage]:
    """An SSH server that lets in one key and offers SFTP below `folder`; the client's HOME has the key.

    Skips where dvc-ssh is not installed.
    """
    if find_spec("asyncssh") is None or find_spec("sshfs") is None:
        pytest.skip("no SSH server or client: pip install '.[ssh]'")
    import asyncssh

    folder.mkdir(parents=True)
    home = folder.parent / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user_key.write_private_key(str(home / ".ssh/id_ed25519"))
    (home / ".ssh/id_ed25519").chmod(0o600)
    allowed = folder.parent / "authorized_keys"
    allowed.write_bytes(user_key.export_public_key())
    port, ready, stop = free_port(), threading.Event(), threading.Event()

    async def serve() -> None:
        server = await asyncssh.listen(
            "127.0.0.1",
            port,
            server_host_keys=[host_key],
            authorized_client_keys=str(allowed),
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=os.fsencode(folder)),
            allow_scp=False,
        )
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.05)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    known = f"[127.0.0.1]:{port} {host_key.export_public_key().decode()}"
    (home / ".ssh/known_hosts").write_text(known)
    try:
        yield Storage(f"ssh://tester@127.0.0.1:{port}/dvc", folder, {"HOME": str(home)})
    finally:
        stop.set()
        thread.join(20)
