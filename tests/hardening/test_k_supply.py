"""What is installed, what may run, and who may write where."""

from __future__ import annotations

import ast
import datetime
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

from components import stage
from components.errors import TemperError
from flows import server

CODE = ("components", "flows", "temper", "infra", "benchmarks", ".ci")
UNPACK = {"extract", "extractall", "unpack_archive", "_extract_member"}


def pins(root: Path, *names: str) -> list[Requirement]:
    """The pins of lock files, hashes apart; a package may have one for each Python."""
    text = "\n".join((root / name).read_text("utf-8") for name in names)
    return [Requirement(line.rstrip(" \\")) for line in re.findall(r"(?m)^[\w.-]+==.*$", text)]


def script(root: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, root / f".ci/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.hardening("K58", "the lock: each version with hashes, the same as the constraints, no address of an index")
def test_every_locked_file_has_a_hash_and_no_index_is_named(root: Path) -> None:
    locks = sorted(path.name for path in root.glob("requirements*.lock"))
    assert locks == ["requirements-cuda.lock", "requirements-source.lock", "requirements.lock"]
    assert sorted(map(str, pins(root, *locks))) == sorted(map(str, pins(root, "constraints.txt")))
    for name in (*locks, "constraints.txt"):
        text = (root / name).read_text("utf-8")
        assert not re.search(r"://|--(extra-)?index|--find-links|\s@\s", text), name
    for name in locks:
        for entry in re.split(r"(?m)^(?=[\w.-]+==)", (root / name).read_text("utf-8"))[1:]:
            hashes = re.findall(r"--hash=(\S+)", entry)
            assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes), f"{name}: {entry[:60]}"


@pytest.mark.hardening("K58", "what the packages ask for, followed through for Python 3.11, 3.12 and 3.13")
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_holds_all_that_is_needed(root: Path, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.1", "extra": ""}
    chosen = pins(root, *(path.name for path in root.glob("requirements*.lock")))
    locked = {pin.name: pin for pin in chosen if pin.marker is None or pin.marker.evaluate(environment)}
    todo, seen = [("temper", "dev")], set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in declared(root, name):
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({**environment, "extra": extra}):
                continue
            package = re.sub(r"[-_.]+", "-", wanted.name).lower()
            todo += [(package, asked) for asked in ("", *wanted.extras)]
            if package == "temper":
                continue
            pin = locked.get(package)
            assert pin, f"{name} needs {wanted}, which is not locked"
            version = str(pin.specifier).removeprefix("==")
            assert wanted.specifier.contains(version, prereleases=True), f"{name} needs {wanted}, locked is {version}"
    assert len({name for name, _ in seen}) > 250


def declared(root: Path, package: str) -> list[str]:
    """What a package asks for; Temper's own as pyproject.toml says now, not as it was when it was installed."""
    if package != "temper":
        try:
            return metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            return []  # of another Python or system
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras: Mapping[str, list[str]] = project["optional-dependencies"]
    lines = list(project["dependencies"])
    for extra, wanted in extras.items():
        for line in wanted:
            requirement, _, marker = line.partition(";")
            lines.append(f"{requirement}; extra == '{extra}'" + (f" and ({marker})" if marker else ""))
    return lines


@pytest.mark.drill
@pytest.mark.hardening("K58", "the set-up's calls of pip; a wheel with one byte changed")
def test_nothing_is_installed_whose_hash_is_not_locked(root: Path, tmp_path: Path) -> None:
    calls = re.findall(r"(?m)^\s*pip install (.*)$", (root / ".ci/setup").read_text("utf-8"))
    assert len(calls) == 5 and [call for call in calls if "--require-hashes" not in call] == [
        "--no-build-isolation -e ."
    ]
    wheel = tmp_path / "wheels/tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    lock = tmp_path / "tiny.lock"
    lock.write_text(f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    words = [sys.executable, "-m", "pip", "install", "--isolated", "--no-deps", "--no-index", "--require-hashes"]
    words += ["--find-links", str(wheel.parent), "--target", str(tmp_path / "out"), "-r", str(lock)]

    def install() -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, check=False)

    assert install().returncode == 0
    changed = wheel.read_bytes()
    wheel.write_bytes(changed.replace(b"Name: tiny", b"Name: tinY"))
    done = install()
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.hardening("K58", "the audit's answers: holes, waivers, waivers whose day has passed, packages not known")
def test_an_audit_is_clean_only_if_all_is_known_or_waived_for_now(root: Path) -> None:
    judged = script(root, "audit").judged
    today = datetime.date(2026, 11, 26)
    hole = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]}
    waiver = {"id": "CVE-1", "package": "a", "until": datetime.date(2026, 12, 1), "reason": "not used"}
    assert judged([{"name": "b", "version": "1", "vulns": []}], [], today)[0] == 0
    assert judged([hole], [], today) == (1, ["a 1: PYSEC-1, fixed in 2", "1 packages, 0 waivers"])
    assert judged([hole], [waiver], today)[0] == 0
    assert judged([hole], [waiver], datetime.date(2026, 12, 2))[0] == 1
    assert judged([hole], [{**waiver, "package": "b"}], today)[0] == 1
    assert judged([{"name": "b", "skip_reason": "not found"}], [], today)[0] == 2
    assert "of no use any more" in judged([], [waiver], today)[1][0]

    locked = {pin.name for pin in pins(root, *(path.name for path in root.glob("requirements*.lock")))}
    for given in tomllib.loads((root / ".ci/waivers.toml").read_text("utf-8")).get("waiver", []):
        assert set(given) == {"id", "package", "until", "reason"}, given
        assert given["package"] in locked and isinstance(given["until"], datetime.date), given
        assert len(given["reason"]) > 20, given


def test_the_bill_of_materials_lists_what_is_installed(root: Path) -> None:
    made = script(root, "sbom").components(sorted(root.glob("requirements*.lock")))
    listed = {component["name"]: component for component in made}
    assert listed["dvc"]["version"] == metadata.version("dvc") and listed["dvc"]["purl"].startswith("pkg:pypi/dvc@")
    assert len(listed) > 250 and all(component["properties"] for component in made)


def calls(root: Path) -> Iterator[tuple[str, ast.Call, str]]:
    """(where, the call, the name that is called) of all of our code."""
    for folder in CODE:
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    yield f"{path.relative_to(root)}:{node.lineno}", node, name


@pytest.mark.hardening("K63", "all of our code searched for what unpacks archives")
def test_no_archive_is_ever_unpacked(root: Path) -> None:
    found = list(calls(root))
    assert len(found) > 3000
    assert not [where for where, _, name in found if name in UNPACK]
    for folder in CODE:
        for path in (root / folder).rglob("*.py"):
            assert not re.search(r"(?m)^\s*(import|from) (tarfile|py7zr|rarfile)\b", path.read_text("utf-8")), path


@pytest.mark.hardening("K62", "all of our code searched for modes and temporary names that let others write")
def test_no_code_gives_others_leave_to_write(root: Path) -> None:
    for where, call, name in calls(root):
        assert name not in ("mktemp", "tempnam"), where
        if name in ("chmod", "mkdir", "makedirs", "touch", "open", "umask"):
            given: list[Any] = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
            modes = [arg.value for arg in given if isinstance(arg, ast.Constant) and type(arg.value) is int]
            assert name != "umask" and not [mode for mode in modes if mode & 0o022], where


@pytest.mark.hardening("K62", "each folder of ours made writable for everybody")
def test_folders_that_everybody_may_write_to_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage.refuse_open_folders()  # what is not there is no fault
    for name in stage.OURS:
        Path(name).mkdir(parents=True, exist_ok=True)
        before = Path(name).stat().st_mode
        for mode in (0o777, 0o757):
            Path(name).chmod(mode)
            with pytest.raises(TemperError, match="everybody on this machine may write there"):
                stage.refuse_open_folders()
        Path(name).chmod(0o775)  # a group's
        stage.refuse_open_folders()
        Path(name).chmod(before)
    preset = Path(".temper/presets/news")
    preset.mkdir(parents=True)
    with monkeypatch.context() as there:
        there.chdir(preset)
        (tmp_path / "mlruns").chmod(0o777)  # the one that its runs write to
        with pytest.raises(TemperError, match=r"mlruns: everybody on this machine may write there"):
            stage.refuse_open_folders()
        (tmp_path / "mlruns").chmod(0o755)
        stage.refuse_open_folders()
    Path("work").chmod(0o777)
    env = {**os.environ, "PYTHONPATH": str(Path(stage.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "components.stage", "decide"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "chmod -R o-w" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.hardening("K62", "Prefect's folder opened to all; its settings and tasks asked how results are kept")
def test_prefect_keeps_no_result_and_unpickles_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in server.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    server.HOME.mkdir(parents=True)
    server.HOME.chmod(0o777)
    settings = server.settings()
    assert server.HOME.stat().st_mode & 0o777 == 0o700
    assert settings["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert settings["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "false"
    from prefect import Flow, Task

    from flows import retrain

    ours = [value for value in vars(retrain).values() if isinstance(value, Flow | Task)]
    assert len(ours) == 3
    for one in ours:
        assert one.persist_result is False
        if isinstance(one, Task):  # what has no key is looked up nowhere
            assert one.cache_key_fn is None and one.result_storage_key is None
            assert one.cache_policy is None or one.cache_policy.compute_key(None, {}, {}) is None  # type: ignore[arg-type]


def test_the_security_model_names_tests_and_files_that_exist(root: Path) -> None:
    text = (root / "SECURITY.md").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    there = {
        name for path in (root / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 12 and named <= there, named - there
    for path in re.findall(r"`((?:components|infra|docs|\.ci)/[\w./-]+)`", text):
        assert (root / path).exists(), path
    assert "SECURITY.md" in (root / "README.md").read_text("utf-8")
