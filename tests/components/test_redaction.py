from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components import cell, params, redaction, registry
from components.errors import ParamsError, TemperError
from flows import server

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalr/XUtn+FEMI",
    "MLFLOW_TRACKING_PASSWORD": "hunter22",
    "PREFECT_API_AUTH_STRING": "somebody:prefect-pass",
    "DATABASE_URL": "postgresql://somebody:from-the-url@db/x",
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TEMPER_SIGNING_KEY", "/home/somebody/key")  # a path is none, and is wanted in messages


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("key wJalr/XUtn+FEMI refused", "key *** refused"),
        ("somebody:prefect-pass, or prefect-pass", "***, or ***"),
        ("cannot reach https://me:pw@host:1/a?b=c@d", "cannot reach https://***@host:1/a?b=c@d"),
        ("password from-the-url of postgresql://somebody:from-the-url@db/x", "password *** of postgresql://***@db/x"),
        ("see https://host/a@b and /home/somebody/key", "see https://host/a@b and /home/somebody/key"),
    ],
)
def test_secrets_are_made_unreadable_and_nothing_else(said: str, shown: str) -> None:
    assert redaction.without_secrets(said) == shown


@pytest.mark.hardening("K60", "an exception in a cell that quotes a secret and an address with a password")
def test_a_failed_cell_keeps_the_exception_without_its_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def work(target: str, folder: Path) -> dict[str, object]:
        raise ValueError("postgresql://somebody:from-the-url@db refused hunter22 of somebody")

    with caplog.at_level(logging.WARNING):
        record = cell.each(["fp32"], work, lambda target: "x", tmp_path, None)["fp32"]
    assert record.reason == "ValueError: postgresql://***@db refused *** of somebody"
    kept = (tmp_path / "fp32/record.json").read_text("utf-8") + caplog.text
    assert "Traceback" in kept and "hunter22" not in kept and "from-the-url" not in kept


@pytest.mark.hardening("K60", "an exception that nothing catches, and a log line, of a stage")
def test_a_stage_says_its_last_words_without_secrets(tmp_path: Path, root: Path) -> None:
    code = (
        "import logging, os, sys; from components import stage\n"
        "def execute(*words):\n"
        "    logging.getLogger('x').warning('with %s', os.environ['AWS_SECRET_ACCESS_KEY'])\n"
        "    raise KeyError(os.environ['MLFLOW_TRACKING_PASSWORD'])\n"
        "stage.execute = execute\n"
        "stage.main(['compare'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "with ***" in done.stderr and "KeyError: '***'" in done.stderr
    assert not [secret for secret in SECRETS.values() if secret in done.stderr + done.stdout]


@pytest.mark.hardening("K60", "addresses with a password in the environment and in params.yaml: refused, not shown")
def test_addresses_with_credentials_are_refused_before_they_are_used(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    for variable, read in (("MLFLOW_TRACKING_URI", registry.address), ("PREFECT_API_URL", server.standing)):
        for address in ("http://me:hidden1@127.0.0.1:1/api", "https://hidden1@host"):
            monkeypatch.setenv(variable, address)
            with pytest.raises(TemperError, match=f"{variable}: must not hold credentials") as refused:
                read()
            assert "hidden1" not in str(refused.value)
    raw = params.read(root / "params.yaml")
    raw["source"] = {"kind": "csv", "path": "https://me:hidden1@host/a.csv", "delimiter": ","}
    with pytest.raises(ParamsError, match=r"source\.path: must not hold credentials") as wrong:
        params.check(raw)
    assert "hidden1" not in str(wrong.value)


def test_a_user_of_an_ssh_server_is_no_secret_and_anchors_end() -> None:
    assert not redaction.has_credentials("ssh://me@host/srv") and redaction.has_credentials("ssh://me:pw@host/srv")
    endless: dict[str, object] = {}
    endless["again"] = [endless, "http://me:pw@host"]
    with pytest.raises(ParamsError, match=r"again\.1: must not hold credentials"):
        params.check(endless)
