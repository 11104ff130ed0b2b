"""infra/servers.sh: real servers on loopback, and a run that uses both."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workspace import ROOT, Workspace


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the script says to export."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    script = subprocess.Popen(
        [ROOT / "infra" / "servers.sh", tmp_path / "servers"],
        env={**os.environ, "PATH": path, **ports},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert script.stdout
    exports = [script.stdout.readline().removeprefix("export ").strip().split("=", 1) for _ in range(2)]
    assert all(len(words) == 2 for words in exports), f"{exports}; exit code {script.poll()}"
    yield {name: value for name, value in exports}
    script.send_signal(signal.SIGTERM)
    script.wait(30)
    left = subprocess.run(["pgrep", "-s", str(script.pid)], capture_output=True, text=True).stdout.split()
    assert left == [], "the script left servers behind"


def test_a_run_uses_the_servers_it_is_given(servers: dict[str, str], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "checkout")
    workspace("temper", "run", **servers)
    assert not (workspace.folder / "mlruns" / "mlflow.db").exists()
    store = f"{servers['MLFLOW_TRACKING_URI']}/api/2.0/mlflow"
    champion = ask(f"{store}/registered-models/alias?name=digits&alias=champion")["model_version"]
    digest = {tag["key"]: tag["value"] for tag in champion["tags"]}["digest"]
    assert digest == workspace.read("work/decision/decision.json")["winner"]["digest"]

    (flow,) = ask(f"{servers['PREFECT_API_URL']}/flow_runs/filter", {})
    assert flow["state"]["type"] == "COMPLETED"
    tasks = {task["name"] for task in ask(f"{servers['PREFECT_API_URL']}/task_runs/filter", {})}
    assert {"make@base", "build@pruned", "benchmark", "promote"} <= tasks

    said = workspace("temper", "run", **servers)
    assert "Nothing to do" in said
