"""What may be named as a remote, and that no secret is shown; against real servers: tests/infra/test_remote.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from components import params, remote
from components.errors import ParamsError


@pytest.mark.parametrize(
    "good", ["s3://bucket", "s3://bucket/a/b", "ssh://me@host:2222/srv/dvc", "ssh://host/srv", "/mnt/dvc", "backup-1"]
)
def test_remotes(good: str) -> None:
    assert remote.problem(good) is None


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("s3://key:secret@bucket/a", "must not hold credentials"),
        ("s3://key@bucket/a", "must not hold credentials"),
        ("ssh://me:secret@host/srv", "must not hold credentials"),
        ("https://host/a", "must be s3://"),
        ("relative/folder", "must be s3://"),
        ("s3:bucket", "must be s3://"),
        ("--help", "must be s3://"),
        ("ssh://host:22x/srv", "its port a number up to 65535"),
        ("ssh://me:secret/srv", "its port a number up to 65535"),
        ("s3://[::1/srv", "must be an address"),
    ],
)
def test_what_is_none(bad: str, words: str) -> None:
    found = remote.problem(bad)
    assert found and words in found and "secret" not in found


def checked(root: Path, push: Any) -> params.Params:
    raw = params.read(root / "params.yaml")
    raw["policy"]["push"] = push
    return params.check(raw)


def test_the_policy_may_say_so_and_never_with_a_password(root: Path) -> None:
    assert params.load(root / "params.yaml").policy.push is None
    push = checked(root, {"required": True, "timeout_s": 60.0}).policy.push
    assert push is not None and push.remote is None
    for wrong, words in {
        "s3://key:hunter2@bucket": "policy.push.remote: must not hold credentials",
        "ftp://host": "policy.push.remote: must be s3://",
    }.items():
        with pytest.raises(ParamsError) as refused:
            checked(root, {"remote": wrong, "required": True, "timeout_s": 60.0})
        assert words in str(refused.value) and "hunter2" not in str(refused.value)
    with pytest.raises(ParamsError) as refused:
        checked(root, {"endpoint": "http://key:hunter2@host", "required": True, "timeout_s": 60.0})
    assert "policy.push.endpoint: must not hold credentials" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ParamsError, match=r"policy.push.endpoint: must be http\(s\)://host:port, the port a number"):
        checked(root, {"endpoint": "http://localhost:90000", "required": True, "timeout_s": 60.0})


@pytest.mark.parametrize("configured", [True, False])
def test_a_host_that_the_ssh_config_may_rename_is_left_to_dvc(
    configured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SSH_CONFIG", tmp_path / "config")
    if configured:
        remote.SSH_CONFIG.write_text("Host far\n  HostName 127.0.0.1\n", "utf-8")
    monkeypatch.setattr(remote, "find_spec", lambda _: object())
    asked: list[Any] = []
    monkeypatch.setattr(remote.socket, "create_connection", lambda *given: asked.append(given) or io.BytesIO())
    remote._reachable(remote.Target("ssh://far/srv", None, 60.0))
    assert bool(asked) is not configured


def test_reasons_hide_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    said = remote._reason("push", "ERROR: s3://me:other@host says hunter2hunter2\nERROR: second\n")
    assert "hunter2" not in said and "other" not in said and "second" in said
    assert "check the credentials" in remote._reason("push", "ERROR: [Errno 13] Permission denied")
