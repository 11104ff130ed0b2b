"""`temper up` for real: servers, runner and schedules on light stages. Started once for the module.

Tests go on where the one before stopped, in the order of the file; each leaves the group up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from ruamel.yaml import YAML

from components.errors import TemperError
from flows import agenda, orphans
from flows import group as groups
from flows.group import Group
from temper.up import tell
from tests.flows.conftest import DAG, WORK
from tests.workspace import Workspace

PRESET = "name: quick\nschedule: {cron: '0 3 * * *', timezone: Europe/Berlin, notify: [custom-webhook/test]}\n"
BLOCK = """import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="test", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}
).save("test", overwrite=True)
"""
IN_ORDER = True  # benchmarks/drill.py runs all of them
FAST = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1"}


class Up:
    """A workspace with light stages, and questions to its servers."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder)
        self.folder = folder
        for old in (folder / "presets").glob("*.yaml"):
            old.unlink()
        (folder / "presets/quick.yaml").write_text(PRESET)
        (folder / "dvc.yaml").write_text(DAG)
        (folder / "work.py").write_text(WORK)
        (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "ran.log\nslow-*\nfail-*\n")
        self.workspace.commit()

    @property
    def place(self) -> Path:
        """The preset's standing worktree."""
        return self.folder / ".temper/presets/quick"

    def __call__(self, *words: str, code: int = 0, **env: str) -> str:
        return self.workspace(sys.executable, "-m", "temper", *words, code=code, **FAST, **env)

    @property
    def group(self) -> groups.Group:
        group = groups.read(self.folder)
        assert group is not None
        return group

    def ask(self, call: str, body: Any = None) -> Any:
        return agenda.ask(f"{self.group.prefect}/api", self.group.password, call, body)

    def deployment(self, name: str = "quick") -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/deployments/name/retrain/{name}")
        return found

    def trigger(self, **parameters: Any) -> str:
        made = self.ask(f"/deployments/{self.deployment()['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def state(self, run: str) -> tuple[str, str]:
        state = self.ask(f"/flow_runs/{run}")["state"]
        return state["name"], state["message"] or ""

    def ended(self, run: str, seconds: float = 120) -> tuple[str, str]:
        """(name of its final state, message)"""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        until(lambda: self.ask(f"/flow_runs/{run}")["state"]["type"] in final, seconds)
        return self.state(run)

    def runs(self) -> list[dict[str, Any]]:
        of = {"deployments": {"id": {"any_": [self.deployment()["id"]]}}}
        found: list[dict[str, Any]] = self.ask("/flow_runs/filter", of | {"sort": "EXPECTED_START_TIME_ASC"})
        return found

    def part(self, name: str) -> int:
        """The pid of a part's own process."""
        found = orphans.marked(self.group.token, name)
        return min(process.pid for process in found if process.ppid() == self.group.pid)

    def ran(self) -> list[str]:
        log = self.place / "ran.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.split()[0] for line in lines if " end " not in line]


def until(true: Callable[[], object], seconds: float = 60) -> None:
    for _ in range(round(seconds / 0.2)):  # not by the clock: a machine that sleeps meanwhile does no harm
        if true():
            return
        time.sleep(0.2)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("up") / "ws")
    made("up", "--detach")
    yield made
    token = made.group.token
    made("down")
    assert orphans.marked(token) == []


def status_of(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_servers_answer_on_loopback_to_who_may_ask(up: Up) -> None:
    group = up.group
    assert up.ask("/admin/version") == "3.8.8"
    assert status_of(f"{group.prefect}/api/admin/version") == 401
    assert status_of(f"{group.prefect}/") == 200  # the pages, which ask for the password
    assert status_of(f"{group.mlflow}/health") == 200
    assert status_of(f"{group.mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0", Host="evil.example") == 403
    assert (up.folder / groups.FILE).stat().st_mode & 0o777 == 0o600
    listening = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True).stdout if shutil.which("ss") else ""
    for port in (group.prefect_port, group.mlflow_port):
        assert f"0.0.0.0:{port}" not in listening


def test_one_group_a_checkout_and_a_taken_port_is_one_line(up: Up, tmp_path: Path) -> None:
    said = up("up", code=1)
    assert f"`temper up` runs here already: Prefect {up.group.prefect}" in said
    other = Up(tmp_path / "other")
    said = other("up", "--prefect-port", str(up.group.prefect_port), code=2)
    assert f"--prefect-port {up.group.prefect_port}: 127.0.0.1 has it taken" in said
    (other.folder / "presets/quick.yaml").write_text(PRESET.replace("0 3 * * *", "0 25 * * *"))
    said = other("up", code=2)
    assert "presets/quick.yaml: schedule.cron: must be a cron line" in said
    assert not (other.folder / groups.FILE).exists()


def test_a_deployment_has_its_schedule_and_typed_parameters(up: Up) -> None:
    made = up.deployment()
    (entry,) = made["schedules"]
    assert (entry["schedule"]["cron"], entry["schedule"]["timezone"]) == ("0 3 * * *", "Europe/Berlin")
    assert made["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    properties = made["parameter_openapi_schema"]["properties"]
    assert properties["preset"]["enum"] == ["params.yaml", "quick"]
    assert properties["dry_run"]["type"] == "boolean"
    with pytest.raises(TemperError, match="answered with 4"):
        up.trigger(preset="nonsense")
    with pytest.raises(TemperError, match="answered with 4"):
        up.trigger(dry_run="perhaps")


def test_a_schedule_that_changes_while_it_is_up_is_taken_up(up: Up) -> None:
    """Of a preset, which had another; of params.yaml, which had none. And back."""

    def crons(name: str) -> list[str]:
        return [entry["schedule"]["cron"] for entry in up.deployment(name)["schedules"]]

    preset, params = up.folder / "presets/quick.yaml", up.folder / "params.yaml"
    before = params.read_text()
    preset.write_text(PRESET.replace("0 3 * * *", "30 4 * * 1"))
    params.write_text(before + "\nschedule: {cron: '15 5 * * *', timezone: UTC}\n")
    until(lambda: (crons("quick"), crons("params.yaml")) == (["30 4 * * 1"], ["15 5 * * *"]))
    preset.write_text(PRESET)
    params.write_text(before)
    until(lambda: (crons("quick"), crons("params.yaml")) == (["0 3 * * *"], []))


def test_a_preset_that_comes_while_it_is_up_is_scheduled_and_may_go_again(up: Up) -> None:
    def known() -> set[str]:
        return {deployment["name"] for deployment in up.ask("/deployments/filter", {})}

    before, preset = known(), up.folder / "presets/afresh.yaml"
    preset.write_text(PRESET.replace("name: quick", "name: afresh"))
    until(lambda: "afresh" in known())
    assert "afresh" in up.deployment("afresh")["parameter_openapi_schema"]["properties"]["preset"]["enum"]
    preset.unlink()
    until(lambda: known() == before)


def test_a_run_by_hand_then_nothing_to_do(up: Up) -> None:
    run = up.trigger(dry_run=True)
    assert up.ended(run) == ("Completed", "dry run: nothing was promoted")
    assert sorted(up.ran()) == ["join", "make@base", "make@pruned", "observe", "split"]
    tasks = up.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert {task["name"] for task in tasks} == {"join", "make@base", "make@pruned", "split"}
    run = up.trigger()
    name, message = up.ended(run)
    assert (name, "nothing to do: all 6 stages are up to date" in message) == ("Completed", True)
    assert up.ran() == ["observe", "promote"]
    assert up.ask(f"/flow_runs/{run}")["labels"]["temper.host"]


@pytest.mark.hardening("J57", "the worker sleeps through 12 scheduled runs")
def test_what_piled_up_while_the_worker_slept_runs_once(up: Up) -> None:
    up.ran()
    runner = up.part("runner")
    os.kill(runner, signal.SIGSTOP)
    try:
        first = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + 8))
        rule = {"rrule": f"DTSTART:{first}\nRRULE:FREQ=SECONDLY;COUNT=12"}
        up.ask(f"/deployments/{up.deployment()['id']}/schedules", [{"schedule": rule, "active": True}])
        until(lambda: len(due(up)) == 12, 60)
    finally:
        os.kill(runner, signal.SIGCONT)
    until(lambda: not due(up), 120)
    until(lambda: all(run["state_type"] in ("COMPLETED", "CANCELLED") for run in scheduled(up)), 60)
    assert up.ran().count("observe") == 1
    names = [run["state_name"] for run in scheduled(up)]
    assert (names.count("Completed"), len(names)) == (1, 12)
    skipped = {run["state"]["message"].partition(":")[0] for run in scheduled(up) if run["state_type"] == "CANCELLED"}
    assert skipped <= {"Deployment concurrency limit reached.", "skipped"}


def scheduled(up: Up) -> list[dict[str, Any]]:
    """What the server itself put on the list, and is due."""
    now = time.strftime("%FT%T", time.gmtime())
    return [run for run in up.runs() if run["auto_scheduled"] and run["expected_start_time"] < now]


def due(up: Up) -> list[dict[str, Any]]:
    return [run for run in scheduled(up) if run["state_type"] == "SCHEDULED"]


class Hook(BaseHTTPRequestHandler):
    got: list[dict[str, Any]] = []  # noqa: RUF012 - of the one server there is

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_hung_stage_is_killed_and_somebody_is_told(up: Up) -> None:
    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    assert "Prefect has no block custom-webhook/test" in up("status")
    env = {"PREFECT_API_URL": f"{up.group.prefect}/api", "PREFECT_API_AUTH_STRING": up.group.password}
    up.workspace(sys.executable, "-c", BLOCK, f"http://127.0.0.1:{hook.server_port}/", **env)
    assert "no block" not in up("status")
    until(lambda: up.ask("/automations/filter", {}), 60)  # the runner looks for the block every few seconds

    (up.place / "slow-split").touch()
    (up.folder / "work.py").write_text(WORK + "# changed\n")
    run = up.trigger(stage_timeout_s=8)
    name, message = up.ended(run)
    assert name == "Failed"
    assert "split: took over 8 s and was killed" in message
    assert "its last lines:\nsplit begins" in message
    (up.place / "slow-split").unlink()
    until(lambda: Hook.got)
    assert Hook.got[0]["subject"] == "Temper: quick: Failed"
    assert "split begins" in Hook.got[0]["body"]
    hook.shutdown()


@pytest.mark.hardening("A4", "kill -9 of the runner of `temper up`")
def test_a_killed_runner_takes_its_run_along_and_closes_it_when_it_is_back(up: Up) -> None:
    (up.place / "slow-join").touch()
    run = up.trigger()
    until(lambda: "join" in (up.place / "ran.log").read_text() if (up.place / "ran.log").exists() else False)
    old = {process.pid for process in orphans.marked(up.group.token, "runner")}
    assert len(old) > 3  # worker, flow run, dvc, stage
    os.kill(up.part("runner"), signal.SIGKILL)
    name, message = up.ended(run)
    assert name == "Crashed"
    assert "was killed" in message
    assert not old & {process.pid for process in orphans.marked(up.group.token)}
    (up.place / "slow-join").unlink()
    assert up.ended(up.trigger())[0] == "Completed"
    up.ran()


@pytest.mark.parametrize("part", ["prefect", "mlflow", "reaper"])
@pytest.mark.hardening("A3", "kill -9 of each part of `temper up`")
def test_any_part_that_is_killed_comes_again(up: Up, part: str) -> None:
    old = up.part(part)
    children = {process.pid for process in orphans.marked(up.group.token, part)}
    os.kill(old, signal.SIGKILL)
    address = {"mlflow": f"{up.group.mlflow}/health"}.get(part, f"{up.group.prefect}/api/health")

    def back() -> bool:
        try:
            return up.part(part) != old and status_of(address) == 200
        except (OSError, ValueError):
            return False

    until(back, 120)
    assert not children & {process.pid for process in orphans.marked(up.group.token, part)}


def test_a_worker_on_another_machine_takes_a_run_too(up: Up, tmp_path: Path) -> None:
    """Another checkout, another folder, and only the work pool in common."""
    other = Up(tmp_path / "other")
    runner = up.part("runner")
    os.kill(runner, signal.SIGSTOP)
    try:
        run = up.trigger(preset="quick")
        env = {"PREFECT_API_URL": f"{up.group.prefect}/api", "PREFECT_API_AUTH_STRING": up.group.password}
        words = ["-m", "prefect", "worker", "start", "--pool", "temper", "--run-once"]
        other.workspace(sys.executable, *words, PREFECT_HOME=str(tmp_path / "home"), DO_NOT_TRACK="true", **env)
        assert up.ended(run)[0] == "Completed"
    finally:
        os.kill(runner, signal.SIGCONT)
    assert "observe" in other.ran()
    assert up.ran() == []


def test_a_run_by_hand_uses_these_servers(up: Up) -> None:
    (up.folder / "work.py").write_text(WORK)
    said = up("run", "--preset", "quick")
    assert "starting Prefect" not in said
    found = up.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["temper"]}}})
    assert [run["state_name"] for run in found] == ["Completed"]


@pytest.mark.hardening("A3", "kill -9 of `temper up` itself")
def test_after_a_kill_of_the_supervisor_nothing_is_left_and_the_next_up_heals(up: Up) -> None:
    (up.place / "slow-join").touch()
    (up.folder / "work.py").write_text(WORK + "# changed again\n")
    run = up.trigger()
    until(lambda: "join" in (up.place / "ran.log").read_text() if (up.place / "ran.log").exists() else False)
    pid, token, prefect = up.group.pid, up.group.token, up.group.prefect
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: orphans.marked(token) == [], 10)
    (up.place / "slow-join").unlink()
    up("up", "--detach")
    assert up.group.prefect == prefect  # addresses stay
    assert up.ended(run)[0] == "Crashed"
    assert up.ended(up.trigger())[0] == "Completed"
    began = time.monotonic()
    up("down")
    assert time.monotonic() - began < 12  # ten, and the start of Python
    assert orphans.marked(token) == []
    assert "does not run here" in up("down")
    said = up("status")
    assert "no schedule runs" in said
    with sqlite3.connect(f"file:{up.folder}/.temper/prefect/prefect.db?mode=ro", uri=True) as store:
        (open_runs,) = store.execute(
            "SELECT COUNT(*) FROM flow_run WHERE state_type IN ('RUNNING', 'PENDING')"
        ).fetchone()
    assert open_runs == 0


@pytest.mark.parametrize("schedule", [None, {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}])
def test_it_says_what_will_run_when(
    schedule: dict[str, str] | None, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = YAML(typ="safe").load((root / "params.yaml").read_text())
    YAML().dump(settings | ({"schedule": schedule} if schedule else {}), tmp_path / "params.yaml")
    tell(Console(width=200), tmp_path, Group())
    said = capsys.readouterr().out
    assert ("Schedule params.yaml 0 3 * * * (Europe/Berlin)" in said) == (schedule is not None)
    assert ("runs are started by hand" in said) == (schedule is None)
