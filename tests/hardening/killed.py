"""A workspace with the real pipeline, small, whose runs are killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.dvc import WHOLE
from tests.workspace import BIN, Workspace

ALWAYS = ("observe", "promote")


class Killed:
    """A workspace whose runs are killed."""

    def __init__(self, folder: Path, server: dict[str, str]) -> None:
        self.workspace, self.server = Workspace(folder), server

    def start(self) -> subprocess.Popen[str]:
        ours = ("TEMPER_", "PREFECT_", "MLFLOW_", "_MLFLOW_", "DVC_")
        known = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        folder = self.workspace.folder
        paths = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
        return subprocess.Popen(
            [str(BIN / "temper"), "run"],
            cwd=folder,
            env=known | paths | self.server,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def log(self, process: subprocess.Popen[str], stage: str) -> str:
        found = list(self.workspace.folder.glob(f".temper/logs/run-*-{process.pid}/{stage}.log"))
        return found[0].read_text("utf-8", errors="replace") if found else ""

    def ran(self, process: subprocess.Popen[str]) -> set[str]:
        """Stages that this run really ran, but for those that always run."""
        logs = self.workspace.folder.glob(f".temper/logs/run-*-{process.pid}/*.log")
        return {log.stem for log in logs if "Running stage" in log.read_text("utf-8", errors="replace")} - {*ALWAYS}

    def until_begun(self, process: subprocess.Popen[str], stage: str) -> bool:
        """False if the run ended well without it: it was in DVC's run cache already, though not in dvc.lock."""
        end = time.monotonic() + 300
        while time.monotonic() < end and process.poll() is None:
            if self.task(process, stage) is not None:
                return True
            time.sleep(0.01)  # promote is through in half a second
        assert process.poll() is not None, f"{stage} did not begin"
        assert process.returncode == 0, process.communicate()[0][-3000:]
        return False

    def task(self, process: subprocess.Popen[str], stage: str) -> psutil.Process | None:
        """The process in which a stage computes."""
        wanted = ["components.stage", *stage.split("@")]
        try:
            for child in psutil.Process(process.pid).children(recursive=True):
                words = child.cmdline()
                if "components.stage" in words and "-c" not in words:
                    at = words.index("components.stage")
                    given = [word for word in words[at:] if "=" not in word]
                    if given == wanted:
                        return child
        except psutil.Error:
            pass
        return None

    def lock(self) -> dict[str, Any]:
        """dvc.lock; of one that the kill cut off, the copy that is put back."""
        for path in (Path("dvc.lock"), WHOLE):
            with contextlib.suppress(OSError, YAMLError):
                text = (self.workspace.folder / path).read_text("utf-8")
                content: dict[str, Any] = YAML().load(text)  # as it stands, to be written again
                if text.endswith("\n") and content:
                    return content
        return {"stages": {}}

    def finished(self) -> set[str]:
        return set(self.lock()["stages"]) - {*ALWAYS}

    def forget(self, stage: str) -> None:
        """Make a stage stale that has run: DVC knows nothing of it any more."""
        content = self.lock()
        entry = content["stages"].pop(stage)
        YAML().dump(content, self.workspace.folder / "dvc.lock")
        for kept in (self.workspace.folder / ".dvc/cache/runs").rglob("*"):
            if kept.is_file() and YAML(typ="safe").load(kept.read_text("utf-8"))["cmd"] == entry["cmd"]:
                kept.unlink()

    def processes(self) -> list[str]:
        """What works in the folder, by its words."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()) == self.workspace.folder and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.Error, OSError):
                continue
        return found

    def until_quiet(self, seconds: float = 10.0) -> list[str]:
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return left
