"""A user's workspace for end-to-end tests: the checkout's files with small params, driven by the real commands."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

FIT = {
    "epochs": 3,
    "batch_size": 32,
    "optimizer": {"kind": "adamw", "lr": 0.003, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_share": 0.1},
    "loss": {"kind": "cross_entropy", "label_smoothing": 0.0},
    "clip_norm": 1.0,
    "patience": 5,
}
SMALL: dict[str, Any] = {
    "init": {"model": {"family": "mlp", "hidden": [32], "dropout": 0.1}},
    "variants": {
        "base": {"from": "init", "pass": "train", "fit": FIT},
        "pruned": {"from": "base", "pass": "prune", "ratio": 0.5, "round_to": 8, "fit": FIT},
    },
    "targets": {
        "fp32": {"kind": "onnx_fp32"},
        "int8_dynamic": {"kind": "onnx_int8_dynamic", "per_channel": True, "min_integer_share": 1.0},
        "trt_fp16": {"kind": "tensorrt", "precision": "fp16", "batch_sizes": [1, 2, 4], "rows": 16},
    },
}


def with_one_stage(folder: Path, dag: str, script: str) -> Path:
    """A folder of DVC's alone, without git: `dag` is its dvc.yaml, whose stage runs make.sh. It has not run yet."""
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "dvc.yaml").write_text(dag)
    (folder / "make.sh").write_text(script)
    return folder


class Workspace:
    """A user's checkout with small params."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        files = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
        )
        for name in filter(None, files.stdout.decode().split("\0")):
            if (ROOT / name).is_file() and not name.startswith("tests/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        (folder / "dvc.lock").unlink(missing_ok=True)
        self.folder = folder
        self.write_params(SMALL)
        self("git", "init", "-q", "-b", "main")
        self.commit()

    def write_params(self, changes: Mapping[str, Any]) -> None:
        yaml = YAML()
        path = self.folder / "params.yaml"
        raw = yaml.load(path.read_text("utf-8"))
        raw.update(changes)
        raw["benchmark"].update(
            {"rounds": 5, "max_rounds": 5, "loads": 1, "warmup": 1, "seconds_per_round": 0.01, "batch_sizes": [1, 8]}
        )
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(raw, file)

    def commit(self) -> None:
        self("git", "add", "-A")
        self("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "state")

    def __call__(self, *command: str, code: int | None = 0, **environment: str) -> str:
        # MLflow leaves the store of whoever used it last in the environment of the process that runs the tests.
        ours = ("TEMPER_", "PREFECT_", "MLFLOW_", "_MLFLOW_", "DVC_")
        known = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={
                **known,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "PYTHONPATH": str(self.folder),
                "COLUMNS": "160",
                **environment,
            },
            capture_output=True,
            text=True,
        )
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, f"{command}: exit code {done.returncode}\n{said[-6000:]}"
        return said

    def lock(self) -> dict[str, Any]:
        stages: dict[str, Any] = YAML(typ="safe").load((self.folder / "dvc.lock").read_text("utf-8"))["stages"]
        return stages

    def read(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text("utf-8"))

    def registry(self) -> tuple[int, int | None]:
        """(versions, the champion's version)."""
        with sqlite3.connect(f"file:{self.folder}/mlruns/mlflow.db?mode=ro", uri=True) as store:
            (versions,) = store.execute("SELECT COUNT(*) FROM model_versions").fetchone()
            row = store.execute("SELECT version FROM registered_model_aliases WHERE alias = 'champion'").fetchone()
        return versions, row and int(row[0])

    def digests(self) -> list[str]:
        """Of every version, in their order."""
        with sqlite3.connect(f"file:{self.folder}/mlruns/mlflow.db?mode=ro", uri=True) as store:
            asked = "SELECT value FROM model_version_tags WHERE key = 'digest' ORDER BY version"
            return [digest for (digest,) in store.execute(asked)]
