"""What `temper up` runs as one group: its file, .temper/up.json of the main checkout, readable by its owner only.

Every process of the group carries the group's token in its environment, and so do all that they start: by it
orphans are found (`flows.orphans`), whatever was killed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path

from components import record

FILE = Path(".temper/up.json")
TOKEN, PART = "TEMPER_GROUP", "TEMPER_PART"  # in the environment of every process of the group


@dataclass
class Group:
    """Kept from one `temper up` to the next, so that addresses and password stay; `pid` is None while it is down."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    password: str = field(default_factory=lambda: f"temper:{secrets.token_urlsafe(24)}")
    prefect_port: int | None = None
    mlflow_port: int | None = None
    tracks: bool = False  # runs go through the MLflow server: its store is not the embedded one
    mlflow_elsewhere: str = ""  # the user's own MLflow server, which is not of the group then
    ready: bool = False
    since: float = 0.0  # seconds since 1970
    host: str = ""
    boot: str = ""
    pid: int | None = None
    start: int | None = None

    @property
    def prefect(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def mlflow(self) -> str:
        return self.mlflow_elsewhere or f"http://127.0.0.1:{self.mlflow_port}"

    def own(self) -> None:
        """Name this process as the one that supervises."""
        self.host, self.boot = socket.gethostname(), record.boot_id()
        self.pid, self.start = os.getpid(), record.process_start(os.getpid())

    @property
    def alive(self) -> bool:
        """Whether its supervisor runs, on this machine and since this boot."""
        if self.pid is None or (self.host, self.boot) != (socket.gethostname(), record.boot_id()):
            return False
        return self.start is not None and record.process_start(self.pid) == self.start


def read(root: Path) -> Group | None:
    """None if there never was one here, or its file is not whole."""
    try:
        known = json.loads((root / FILE).read_text("utf-8"))
        return Group(**known)
    except (OSError, ValueError, TypeError):
        return None


def write(root: Path, group: Group) -> None:
    path = root / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.touch(0o600)
    aside.write_text(json.dumps(asdict(group), indent=2), "utf-8")
    aside.replace(path)


def up(root: Path) -> Group | None:
    """The group that is ready to be used now, or None."""
    group = read(root)
    return group if group and group.ready and group.alive else None


def join(root: Path) -> Group | None:
    """Let this process use the servers of `temper up`, where the environment does not name others."""
    group = up(root)
    if group is None:
        return None
    if not os.environ.get("PREFECT_API_URL"):
        os.environ |= {"PREFECT_API_URL": f"{group.prefect}/api", "PREFECT_API_AUTH_STRING": group.password}
    if group.tracks and not os.environ.get("MLFLOW_TRACKING_URI"):
        os.environ["MLFLOW_TRACKING_URI"] = group.mlflow
    return group
