"""Pushing to and fetching from DVC remotes: a folder, a real S3-compatible server, a real SSH server."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import objects, remote, verified_ssh
from components.remote import RemoteError, Target
from tests.hardening.proxy import slow
from tests.infra.storage import Storage, free_port
from tests.workspace import with_one_stage

DAG = "stages:\n  ingest:\n    cmd: sh make.sh\n    deps: [make.sh]\n    outs: [out]\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one stage that has run: a folder of three files."""
    script = "mkdir -p out && for i in 1 2 3; do echo $i > out/$i; done\n"
    folder = with_one_stage(tmp_path_factory.mktemp("made"), DAG, script)
    dvc(folder, "repro")
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a workspace"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", remote.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return folder


def dvc(folder: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def policy(url: str | None, required: bool = True, timeout_s: float = 120.0, **more: Any) -> dict[str, Any]:
    return {"remote": url, "endpoint": None, "required": required, "timeout_s": timeout_s, **more}


@pytest.fixture(params=["folder", "s3", "ssh"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return Storage(str(tmp_path / "backup"), tmp_path / "backup")
    found: Storage = request.getfixturevalue(request.param)
    return found


def test_what_was_pushed_comes_back_by_its_hash(
    server: Storage, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    config = (workspace / ".dvc/config").read_text()
    with caplog.at_level(logging.INFO):
        remote.before_promotion(policy(server.url, endpoint=server.endpoint))
    assert f"pushed to {server.url}" in caplog.text
    assert len([path for path in server.files() if "md5" in path.parts]) == 4, "a listing and three files"
    assert (workspace / ".dvc/config").read_text() == config and not (workspace / ".dvc/config.local").exists()

    clone = copy_of(workspace, tmp_path / "clone")
    remote.fetch(clone, workspace, Target.of(policy(server.url, endpoint=server.endpoint)), "ingest")
    oid = objects.locked((clone / "dvc.lock").read_text())["ingest"]["out"]
    assert objects.place(clone / ".dvc/cache/files/md5", oid, clone / "out") == 3
    assert (clone / "out/2").read_text() == "2\n"


def copy_of(workspace: Path, folder: Path) -> Path:
    """What git would bring."""
    for name in (".dvc/config", "dvc.yaml", "dvc.lock", "make.sh"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(workspace / name, folder / name)
    return folder


def test_a_name_of_dvcs_config_with_credentials_in_its_local_part(
    s3: Storage, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dvc(workspace, "remote", "add", "-d", "backup", "s3://models/named")
    key, secret = s3.environment["AWS_ACCESS_KEY_ID"], s3.environment["AWS_SECRET_ACCESS_KEY"]
    settings = {"endpointurl": s3.endpoint, "access_key_id": key, "secret_access_key": secret, "region": "us-east-1"}
    for option, value in settings.items():
        dvc(workspace, "remote", "modify", "--local", "backup", option, str(value))
    remote.before_promotion(policy("backup"))
    assert [path for path in s3.files() if "named" in path.parts]
    remote.before_promotion(policy(None))  # the default
    clone = copy_of(workspace, tmp_path / "clone")
    monkeypatch.chdir(clone)
    remote.fetch(clone, workspace, Target.of(policy("backup")), "ingest")
    assert len([path for path in (clone / ".dvc/cache/files").rglob("*") if path.is_file()]) == 4
    assert secret not in (clone / ".dvc/config.local").read_text(), "credentials were left in the clone"
    # A preset's worktree has a local config of its own, and its push needs the main checkout's.
    standing = copy_of(workspace, workspace / ".temper/presets/other")
    shutil.copytree(workspace / ".dvc/cache", standing / ".dvc/cache")
    monkeypatch.chdir(standing)
    remote.before_promotion(policy("backup"))


@pytest.mark.hardening("C18", "the remote forbids it")
def test_wrong_credentials_are_refused_and_not_shown(
    s3: Storage, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (s3.environment | {"AWS_SECRET_ACCESS_KEY": "wrongsecretofmine"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RemoteError) as refused:
        remote.before_promotion(policy("s3://models/refused", endpoint=s3.endpoint))
    said = str(refused.value)
    assert "was refused" in said and "check the credentials in the environment" in said
    assert "nothing was promoted" in said and "wrongsecretofmine" not in said


def test_another_key_is_refused(ssh: Storage, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/.ssh").mkdir(parents=True)
    shutil.copy(Path(ssh.environment["HOME"]) / ".ssh/known_hosts", tmp_path / "home/.ssh/known_hosts")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(RemoteError, match="was refused"):
        remote.before_promotion(policy(ssh.url))


@pytest.mark.parametrize("known", ["another key", "no key", "no file"])
def test_a_server_whose_key_is_not_known_gets_nothing(
    known: str, ssh: Storage, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncssh

    home = tmp_path / "home"
    shutil.copytree(ssh.environment["HOME"], home)
    hosts = home / ".ssh/known_hosts"
    host = hosts.read_text().split()[0]
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    hosts.write_text(f"{host} {other}" if known == "another key" else "")
    if known == "no file":
        hosts.unlink()
    monkeypatch.setenv("HOME", str(home))
    url = ssh.url.replace("/dvc", "/strange")
    with pytest.raises(RemoteError, match=r"showed a key that is not in known_hosts .* nothing was promoted"):
        remote.before_promotion(policy(url))
    assert not [path for path in ssh.files() if "strange" in path.parts]


def test_no_server_is_given_the_users_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    dvc_ssh = pytest.importorskip("dvc_ssh", reason="no SSH client: pip install '.[ssh]'")
    kind = dvc_ssh.SSHFileSystem
    monkeypatch.setattr(kind, "_prepare_credentials", kind._prepare_credentials)  # put back afterwards
    assert kind(host="backup").fs_args["agent_forwarding"], "DVC's own default: is verified_ssh still needed?"
    verified_ssh.verify_hosts()
    assert not kind(host="backup").fs_args["agent_forwarding"] and kind(host="backup").fs_args["known_hosts"] == ()


@pytest.mark.hardening("C18", "the remote is down")
@pytest.mark.parametrize("url", ["s3://models/dvc", "ssh://127.0.0.1:{port}/dvc"])
def test_one_that_does_not_answer_is_said_so_at_once(url: str, workspace: Path) -> None:
    port, started = free_port(), time.monotonic()
    with pytest.raises(RemoteError, match=f"127.0.0.1:{port} does not answer"):
        remote.before_promotion(policy(url.format(port=port), endpoint=f"http://127.0.0.1:{port}"))
    assert time.monotonic() - started < 10


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        held: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield listener.getsockname()[1]
    for connection in held:
        connection.close()


@pytest.mark.hardening("C18", "the remote is silent; with and without policy.push.required")
def test_a_slow_one_ends_in_time_and_the_policy_says_what_then(
    silent: int, workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    slow = policy("s3://models/dvc", timeout_s=3.0, endpoint=f"http://127.0.0.1:{silent}")
    with pytest.raises(RemoteError, match=r"took over 3 s \(policy.push.timeout_s\)"):
        remote.before_promotion(slow)
    remote.before_promotion(slow | {"required": False})
    assert "not pushed, and policy.push does not require it" in caplog.text


def test_the_environment_names_another_and_a_folder_must_be_mounted(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(remote.VARIABLE, str(tmp_path / "other"))
    remote.before_promotion(policy("s3://models/dvc"))
    assert (tmp_path / "other").is_dir()
    monkeypatch.setenv(remote.VARIABLE, str(tmp_path / "nowhere/folder"))
    with pytest.raises(RemoteError, match="is it mounted"):
        remote.before_promotion(policy(None))
    monkeypatch.setenv(remote.VARIABLE, "s3://me:mysecret@host/bucket")
    with pytest.raises(RemoteError, match="must not hold credentials") as refused:
        remote.before_promotion(policy(None))
    assert "mysecret" not in str(refused.value)


@pytest.mark.hardening("C18", "a push breaks off, and is tried again")
def test_the_next_try_goes_on_from_what_arrived(
    s3: Storage, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    store = s3.folder / "resumed/files/md5"
    oid = objects.locked((workspace / "dvc.lock").read_text())["ingest"]["out"]
    file = objects.listing(workspace / ".dvc/cache/files/md5", oid)["2"]
    obstacle = store / file[:2]
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")  # the server cannot store one of the files
    push = policy("s3://models/resumed", endpoint=s3.endpoint)
    with pytest.raises(RemoteError, match=r"`dvc push` failed: .*; what arrived stays there and the next try goes on"):
        remote.before_promotion(push)
    arrived = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and path != obstacle}
    assert len(arrived) == 2, "the listing comes last"
    obstacle.unlink()
    remote.before_promotion(push)
    assert {path: path.stat().st_mtime_ns for path in arrived} == arrived
    assert objects.place(store, oid, tmp_path / "out") == 3


@pytest.mark.hardening("C18", "the remote takes 1 kB a second, then is quick again")
def test_a_remote_of_1_kb_a_second_ends_in_time_and_a_retry_finishes(
    s3: Storage, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with (workspace / "make.sh").open("a") as more:
        more.write("head -c 60000 /dev/zero > out/4\n")
    dvc(workspace, "repro")
    port = int(str(s3.endpoint).rpartition(":")[2])
    with slow("127.0.0.1", port) as throttle:
        throttle.bytes_s = 1000.0
        push = policy("s3://models/slow", timeout_s=15.0, endpoint=f"http://127.0.0.1:{throttle.port}")
        with pytest.raises(RemoteError, match=r"took over 15 s \(policy.push.timeout_s\); what arrived stays there"):
            remote.before_promotion(push)
        throttle.bytes_s = 0.0
        remote.before_promotion(push | {"timeout_s": 300.0})
    oid = objects.locked((workspace / "dvc.lock").read_text())["ingest"]["out"]
    assert objects.place(s3.folder / "slow/files/md5", oid, tmp_path / "out") == 4


def test_no_remote_at_all(workspace: Path) -> None:
    with pytest.raises(RemoteError, match="no remote"):
        remote.before_promotion(policy(None))
