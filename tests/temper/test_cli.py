"""The commands as a user types them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from components import registry

ROOT = Path(__file__).resolve().parents[2]


def temper(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    named = ("PREFECT_", "MLFLOW_", "TEMPER_", "DVC_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(named)}
    return subprocess.run(
        [sys.executable, "-m", "temper", *words],
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "DVC_NO_ANALYTICS": "1"} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace as cloned: nothing has run."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return tmp_path.resolve()


def test_help_teaches_without_heavy_imports() -> None:
    heavy = "torch mlflow prefect dvc pandas numpy onnxruntime pydantic"
    code = (
        "import sys; from typer.testing import CliRunner; from temper.__main__ import app\n"
        "said = CliRunner().invoke(app, ['--help'])\n"
        "assert said.exit_code == 0 and 'temper doctor' in said.output, said.output\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("command", ["run", "status", "matrix", "promote", "verify", "sign", "lr-find", "ui"])
def test_outside_a_workspace(command: str, tmp_path: Path) -> None:
    done = temper(command, cwd=tmp_path)
    assert done.returncode == 2
    assert "not inside a Temper workspace" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_params_are_all_told_before_any_work(folder: Path) -> None:
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("seed: 0", "sead: 0").replace("threads: 2", "threads: 0"))
    done = temper("run", cwd=folder)
    assert done.returncode == 2
    assert "sead: unknown key" in done.stderr
    assert "threads: " in done.stderr
    assert not (folder / ".temper").exists()


def test_works_from_below_the_root(folder: Path) -> None:
    below = folder / "work/somewhere"
    below.mkdir(parents=True)
    done = temper("matrix", cwd=below)
    assert done.returncode == 1
    assert "there is no matrix yet; `temper run` makes it" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["promote", "--dry-run"], "there is no decision yet"),
        (["ui"], "nothing is tracked yet"),
    ],
)
def test_nothing_there_yet(words: list[str], said: str, folder: Path) -> None:
    done = temper(*words, cwd=folder)
    assert done.returncode == 1
    assert said in done.stderr


def test_ui_says_when_the_port_is_taken(folder: Path) -> None:
    (folder / "mlruns").mkdir()
    with contextlib.closing(sqlite3.connect(folder / "mlruns/mlflow.db")) as store:
        store.execute("CREATE TABLE alembic_version (version_num TEXT)")
        store.execute("INSERT INTO alembic_version VALUES (?)", (registry.SCHEMA,))
        store.commit()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = temper("ui", "--port", str(port), cwd=folder)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1" in done.stderr
    assert "take another" in done.stderr


def test_status_of_a_fresh_clone(folder: Path) -> None:
    done = temper("status", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "make@base" in done.stdout
    assert "stages are stale" in done.stdout


def test_doctor_finds_what_is_wrong(folder: Path) -> None:
    done = temper("doctor", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "Temper can work here." in done.stdout

    (folder / "params.yaml").write_text("name: digits\n")
    done = temper("doctor", cwd=folder, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert "seed: is missing; add it" in done.stdout
    assert "127.0.0.1:9 does not answer" in done.stdout
    assert "unset PREFECT_API_URL" in done.stdout


def test_doctor_says_that_the_data_are_not_there(folder: Path) -> None:
    text = (folder / "params.yaml").read_text()
    source = "source: {kind: csv, path: data/none.csv, delimiter: ','}\n\n"
    (folder / "params.yaml").write_text(re.sub(r"(?ms)^source:.*?(?=^task:)", source, text))
    done = temper("doctor", cwd=folder)
    assert done.returncode == 1 and "source.path data/none.csv is not there" in done.stdout
    (folder / "data").mkdir()
    (folder / "data/none.csv").touch()
    assert "is not there" not in temper("doctor", cwd=folder).stdout


@pytest.mark.parametrize(
    ("installed", "level"),
    [({"onnxruntime": "1.32.0"}, None), ({"onnxruntime-gpu": "1.31.1"}, "note"), ({"both": "1.31.1"}, "warn")],
)
def test_doctor_knows_what_stands_in_for_onnxruntime(
    installed: dict[str, str], level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    from temper import machine

    def version(package: str) -> str:
        if not package.startswith("onnxruntime"):
            return "1.0"
        if (found := installed.get("both", installed.get(package))) is None:
            raise metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: ["onnxruntime==1.32.0"])
    said = [finding for finding in machine.packages() if finding.what == "onnxruntime"]
    assert [finding.level for finding in said] == ([level] if level else [])
    if level == "warn":
        assert said[0].remedy.startswith("pip uninstall -y onnxruntime")
