"""The DVC remote that what a version is made from goes to before a promotion, and comes back from.

A folder, S3 or what speaks its language, or an SSH server. Credentials are never written or shown: they come from the
environment (AWS_ACCESS_KEY_ID, ..., an SSH agent) or from DVC's local config. Every call ends in bounded time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components import redaction, registry, verified_ssh
from components.errors import TemperError

log = logging.getLogger("temper")

VARIABLE = "TEMPER_REMOTE"  # in the environment: takes the place of what params.yaml names
# Of our own section in DVC's configuration, for the length of one command: one of the user's would go before it.
NAME = "temper-policy-push"
PROBE_S = 5.0
CONNECT_S, READ_S = 10, 60  # of one request
FETCH_S = 3600.0  # a fetch that no policy bounds
SCHEMES = {"s3": ("dvc_s3", 443), "ssh": ("dvc_ssh", 22)}  # package, usual port
SSH_CONFIG = Path("~/.ssh/config")
UNKNOWN_HOST = re.compile(r"Host key is not trusted|HostKeyNotVerifiable", re.IGNORECASE)
FORBIDDEN = re.compile(
    r"\b40[13]\b|Forbidden|Access ?Denied|Permission denied|SignatureDoesNotMatch|InvalidAccessKeyId|credentials|"
    r"Authentication|not allowed",
    re.IGNORECASE,
)


class RemoteError(TemperError):
    """The remote does not answer, refuses, is too slow or lacks what is asked for."""


def problem(remote: str) -> str | None:
    """Why a remote cannot be named so; None if it can."""
    try:
        parts = urlsplit(remote)
        _ = parts.port
    except ValueError:  # its words would show what stands there
        return "must be an address, its port a number up to 65535"
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        return (
            "must not hold credentials: they come from the environment (AWS_ACCESS_KEY_ID, an SSH agent) or from DVC's "
            "local config (`dvc remote modify --local`)"
        )
    if parts.scheme in SCHEMES and parts.netloc:
        return None
    if not parts.scheme and (Path(remote).is_absolute() or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", remote)):
        return None
    return "must be s3://bucket/folder, ssh://host/folder, an absolute folder or the name of a remote in DVC's config"


@dataclass(frozen=True)
class Target:
    """Where to, and how patiently."""

    remote: str | None  # None: the remote that DVC's config names as the default
    endpoint: str | None  # of an S3-compatible server
    timeout_s: float

    @classmethod
    def of(cls, push: Mapping[str, Any] | None) -> Target:
        """From `policy.push` and the environment. Raises RemoteError for what cannot be a remote."""
        given = push or {}
        remote = os.environ.get(VARIABLE, "").strip() or given.get("remote")
        if remote and (wrong := problem(remote)):
            raise RemoteError(f"{VARIABLE} or policy.push.remote: {wrong}")  # what it holds is not shown: see `problem`
        return cls(remote, given.get("endpoint"), float(given.get("timeout_s") or FETCH_S))

    @property
    def shown(self) -> str:
        return self.remote or "DVC's default remote"

    @property
    def ours(self) -> bool:
        """Whether DVC's config does not know it: an address, not a name."""
        return bool(self.remote) and ("://" in str(self.remote) or str(self.remote).startswith("/"))


def before_promotion(push: Mapping[str, Any]) -> None:
    """Send all that dvc.lock names to the remote of `policy.push`.

    Raises RemoteError if that fails and the policy requires it; else says so and lets the promotion go on.
    """
    try:
        target = Target.of(push)
        started = time.monotonic()
        _dvc(target, Path.cwd(), registry.root(), ["push"])
        log.info("pushed to %s in %.1f s", target.shown, time.monotonic() - started)
    except RemoteError as error:
        if push["required"]:
            raise RemoteError(f"{error}; policy.push requires it, so nothing was promoted") from None
        log.warning("not pushed, and policy.push does not require it: %s", error)


def fetch(clone: Path, main: Path, target: Target, stage: str) -> str:
    """Bring the outputs of a stage of `clone` into its own cache, with the local config of the checkout `main`.

    Returns where they are from. Raises RemoteError.
    """
    own = clone / ".dvc/config.local"
    own.write_text(f"[cache]\n    dir = {clone / '.dvc/cache'}\n", "utf-8")
    _dvc(target, clone, main, ["fetch", stage])
    return target.shown


def bring(target: Target, stage: str) -> str:
    """Bring the objects of a stage into this workspace's cache; returns where they are from. Raises RemoteError."""
    _dvc(target, Path.cwd(), registry.root(), ["fetch", stage])
    return target.shown


def _without_cache(config: str) -> str:
    return re.sub(r"(?ms)^\[cache\].*?(?=^\[|\Z)", "", config)


def _dvc(target: Target, workspace: Path, main: Path, words: list[str]) -> None:
    _reachable(target)
    with _configured(target, None if main == workspace.resolve() else main) as environment:
        name = ["-r", NAME if target.ours else str(target.remote)] if target.remote else []
        process = subprocess.Popen(
            [sys.executable, "-P", verified_ssh.__file__, "--wait-for-lock", *words, *name],  # not the workspace's code
            cwd=workspace,
            env={**os.environ, **environment, "DVC_NO_ANALYTICS": "1"},
            stdin=subprocess.DEVNULL,  # who would be asked for a password is not there
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=target.timeout_s)
        except subprocess.TimeoutExpired:
            raise RemoteError(
                f"{target.shown}: `dvc {words[0]}` took over {target.timeout_s:g} s (policy.push.timeout_s); what "
                f"arrived stays there and the next try goes on from it"
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise RemoteError(f"{target.shown}: {_reason(words[0], said)}")


def _reason(word: str, said: str) -> str:
    """DVC's errors in one line, without secrets, and what to do."""
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR")] or [said[-300:]]
    text = " ".join(" ".join(dict.fromkeys(lines)).split())
    text = redaction.without_secrets(text)[:400]
    if UNKNOWN_HOST.search(said):
        return (
            f"the server showed a key that is not in known_hosts ({text}); compare it with what who runs the server "
            f"tells you, then add it: `ssh <host>` once, or `ssh-keyscan -p <port> <host> >> ~/.ssh/known_hosts`"
        )
    if FORBIDDEN.search(said):
        return (
            f"`dvc {word}` was refused: {text}; check the credentials in the environment or in DVC's local config, "
            f"and what they may do there"
        )
    return f"`dvc {word}` failed: {text}; what arrived stays there and the next try goes on from it"


def _reachable(target: Target) -> None:
    """One quick question first: the libraries' own retries take minutes to say that nobody answers."""
    if not target.ours:
        return
    parts = urlsplit(str(target.remote))
    if parts.scheme not in SCHEMES:
        folder = Path(str(target.remote))
        if not folder.parent.is_dir():
            raise RemoteError(f"{folder}: {folder.parent} is not there; is it mounted?")
        return
    package, port = SCHEMES[parts.scheme]
    if find_spec(package) is None:
        raise RemoteError(f"{target.shown}: needs {package.replace('_', '-')}; pip install 'temper[{parts.scheme}]'")
    if parts.scheme == "ssh" and SSH_CONFIG.expanduser().exists():
        return  # by which the host may have another name and port, or lie behind a third
    if parts.scheme == "s3":
        endpoint = target.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if not endpoint:  # Amazon's own: which host depends on the region
            return
        parts = urlsplit(endpoint)
        port = 80 if parts.scheme == "http" else 443
    try:
        socket.create_connection((parts.hostname or "", parts.port or port), PROBE_S).close()
    except OSError as error:
        raise RemoteError(
            f"{target.shown}: {parts.hostname}:{parts.port or port} does not answer ({error}); start it or correct the "
            f"address, then try again"
        ) from None


@contextlib.contextmanager
def _configured(target: Target, main: Path | None) -> Iterator[dict[str, str]]:
    """Variables with which DVC knows our remote, at the lowest of its levels: no file of the user's is written.

    A preset's worktree and a clone are also given the local config of `main`, which git did not bring there.
    """
    lines: list[str] = []
    if target.ours:
        lines += [f"['remote \"{NAME}\"']", f"    url = {target.remote}"]
    if str(target.remote).startswith("s3:"):
        lines += [f"    connect_timeout = {CONNECT_S}", f"    read_timeout = {READ_S}"]
        lines += [f"    endpointurl = {target.endpoint}"] if target.endpoint else []
    elif str(target.remote).startswith("ssh:"):
        lines += [f"    timeout = {CONNECT_S}"]
    if main and (local := main / ".dvc/config.local").exists():
        lines = [_without_cache(local.read_text("utf-8")), *lines]
    if not lines:
        yield {}
        return
    system = Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or "/etc/xdg/dvc") / "config"
    with tempfile.TemporaryDirectory(prefix="temper-") as folder:  # which only this user may open
        known = system.read_text("utf-8") + "\n" if system.exists() else ""
        Path(folder, "config").write_text(known + "\n".join(lines) + "\n", "utf-8")
        yield {"DVC_SYSTEM_CONFIG_DIR": folder}
