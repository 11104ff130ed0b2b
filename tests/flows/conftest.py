"""A small pipeline with the shape of the real one, and a standing Prefect server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows import server

ROOT = Path(__file__).resolve().parents[2]

PARAMS = "variants:\n  a: {n: 1}\n  b: {n: 2}\n  c: {n: 3}\n"
DAG = """stages:
  observe:
    cmd: python work.py observe
    outs: [{work/observe: {persist: true}}]
    always_changed: true
  split:
    cmd: python work.py split
    deps: [work.py, work/observe]
    outs: [work/split]
  make:
    foreach: ${variants}
    do:
      cmd: python work.py make ${key}
      deps: [work.py, work/split]
      params: ["variants.${key}"]
      outs: ["work/make/${key}"]
  join:
    cmd: python work.py join
    deps: [work.py, work/make]
    outs: [work/join]
  promote:
    cmd: python work.py promote
    deps: [work/join]
    always_changed: true
"""
WORK = """import json, os, sys, time
from pathlib import Path
from components.stage import end_with_driver
end_with_driver()
name = "@".join(sys.argv[1:])
with open("ran.log", "a") as log:
    log.write(f"{name} {os.getpid()} {time.time()}\\n")
if name == "split" and Path("holder").exists():  # another process takes the path lock of make@b
    locks = json.loads(Path(".dvc/tmp/rwlock").read_text())
    holder = {"pid": int(Path("holder").read_text()), "cmd": "another dvc"}
    locks.setdefault("write", {})[str(Path("work/make/b").resolve())] = holder
    Path(".dvc/tmp/rwlock").write_text(json.dumps(locks))
if Path(f"slow-{name}").exists():
    print(f"{name} begins", flush=True)
    time.sleep(60)
if Path(f"fail-{name}").exists():
    print(f"{name}: a planted fault", file=sys.stderr)
    sys.exit(3)
if name != "promote":
    out = Path("work", *sys.argv[1:])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(name)
with open("ran.log", "a") as log:
    log.write(f"{name} end {time.time()}\\n")
"""
DRIVER = """import json, sys
from flows.drive import Stopped, drive
class Watch:
    def planned(self, *said): print("planned", flush=True)
    def stage(self, *said): print("stage", *said[:2], flush=True)
    def note(self, text): print("note", text, flush=True)
try:
    outcome = drive(Watch(), threads=1, stage_timeout_s=float(sys.argv[1]))
except Stopped as stopped:
    sys.exit(128 + stopped.signal)
print(json.dumps({
    "run": outcome.run, "done": {name: how for name, (how, _) in outcome.done.items()},
    "failed": {name: error.reason for name, error in outcome.failed.items()},
    "skipped": outcome.skipped, "untracked": outcome.untracked,
}))
sys.exit(outcome.exit_code)
"""


@dataclass(frozen=True)
class Workspace:
    """A folder with the small pipeline; commands run in it as a user would."""

    path: Path
    env: dict[str, str]

    def start(self, timeout_s: float = 600, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(timeout_s)],
            cwd=self.path,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def drive(self, timeout_s: float = 600) -> tuple[int, dict[str, Any], str]:
        """(exit code, outcome, stderr) of one whole run"""
        process = self.start(timeout_s)
        out, err = process.communicate(timeout=120)
        last = out.strip().splitlines()[-1] if out.strip() else ""
        return process.returncode, json.loads(last) if last.startswith("{") else {}, err

    def dvc(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=self.path, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write(self, name: str, text: str = "") -> None:
        (self.path / name).write_text(text)

    def until_ran(self, *names: str, seconds: float = 60) -> None:
        """Wait until these stages have begun."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = {line.split()[0] for line in self.ran()}
            if begun >= set(names):
                return
            time.sleep(0.05)
        raise AssertionError(f"{names} did not begin: {self.ran()}")

    def ran(self) -> list[str]:
        log = self.path / "ran.log"
        return [line for line in log.read_text().splitlines() if " end " not in line] if log.exists() else []

    def begun(self) -> list[str]:
        """Names of the stages that began, sorted; and forget them."""
        names = sorted(line.split()[0] for line in self.ran())
        (self.path / "ran.log").unlink(missing_ok=True)
        return names

    def processes(self) -> list[int]:
        """Every living process that works in this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cwd").resolve() == self.path:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def until_quiet(self, seconds: float = 5) -> list[int]:
        """What is still alive after waiting; none is right."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return left


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No server named, Prefect's home shared by all tests (a fresh one costs ten seconds)."""
    named = ("PREFECT_", "MLFLOW_", "TEMPER_", "DVC_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(named)}
    home = tmp_path_factory.mktemp("prefect")
    return env | server.SETTINGS | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home), "DVC_NO_ANALYTICS": "1"}


@pytest.fixture(scope="session")
def prefect(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a standing server."""
    folder = tmp_path_factory.mktemp("server")
    script = (
        "import sys, time; from pathlib import Path; from flows import server\n"
        "with server.running(Path('prefect.log')):\n"
        "    import os; print(os.environ['PREFECT_API_URL'], os.environ['PREFECT_API_AUTH_STRING'], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words, (folder / "prefect.log").read_text()
    yield " ".join(words)
    process.communicate("")


@pytest.fixture
def workspace(tmp_path: Path, environment: dict[str, str]) -> Iterator[Workspace]:
    """The small pipeline, never run, with no Prefect server named."""
    yield from _workspace(tmp_path, environment)


@pytest.fixture
def served(tmp_path: Path, environment: dict[str, str], prefect: str) -> Iterator[Workspace]:
    """The small pipeline, never run, on the standing server."""
    address, password = prefect.split()
    yield from _workspace(tmp_path, environment | {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": password})


def _workspace(path: Path, env: dict[str, str]) -> Iterator[Workspace]:
    (path / ".dvc").mkdir()
    for name, text in {
        ".dvc/config": "[core]\n    no_scm = true\n    analytics = false\n",
        "params.yaml": PARAMS,
        "dvc.yaml": DAG,
        "work.py": WORK,
    }.items():
        (path / name).write_text(text)
    made = Workspace(path.resolve(), env)
    yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)
