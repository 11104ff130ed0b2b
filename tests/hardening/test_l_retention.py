"""What frees disk never takes what a registered version, a preset or the checkout needs."""

from __future__ import annotations

import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest

from components import objects, registry
from flows import snapshot
from flows.dvc import AtWork, driver_lock
from temper import gc as command

DAG = """stages:
  ingest:
    cmd: mkdir -p work/data/raw && cp source.txt work/data/raw/
    deps: [source.txt]
    outs: [work/data/raw]
"""


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *words: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *words)


def needed(folder: Path, revision: str | None = None) -> list[str]:
    """The objects that the dvc.lock of a commit, or of now, names: each with what is in it."""
    text = snapshot.git("show", f"{revision}:dvc.lock", cwd=folder) if revision else (folder / "dvc.lock").read_text()
    (oid,) = objects.locked(text)["ingest"].values()
    return [oid, *objects.listing(folder / ".dvc/cache/files/md5", oid).values()]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]], dict[str, str]]:
    """Data that changed three times: of a registered version, of a preset, of a run that came to nothing, of now."""
    folder = tmp_path_factory.mktemp("retention")
    (folder / "dvc.yaml").write_text(DAG)
    (folder / "params.yaml").write_text("name: digits\n")
    (folder / ".gitignore").write_text("/work/\n/.temper/\n")
    run(folder, "git", "init", "-q")
    dvc(folder, "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "first")
    of: dict[str, list[str]] = {}
    commits: dict[str, str] = {}
    for state in ("registered", "preset", "nothing", "now"):
        (folder / "source.txt").write_text(state * 1000)
        dvc(folder, "repro", "-q")
        of[state] = needed(folder)
        if state == "registered":
            commits[state] = snapshot.keep_checkout(folder) or ""
        if state == "preset":
            lock = snapshot.store(folder, (folder / "dvc.lock").read_bytes())
            tree = snapshot.working_tree(folder, {"dvc.lock": lock})
            commits[state] = snapshot.commit(folder, tree, "news", "temper: news, as it ran")
    return folder, of, commits


@pytest.fixture
def versions(lived: tuple[Path, dict[str, list[str]], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with one version that names its commit, one whose commit is on another machine, and the journal."""
    found = {
        "digits": [registry.Version(1, "", {"git.commit": lived[2]["registered"]}), registry.Version(2, "", {})],
        "temper-journal": [registry.Version(1, "", {})],
    }
    monkeypatch.setattr(registry, "names", lambda: sorted(found))
    monkeypatch.setattr(registry, "versions", lambda name: found[name])


def there(folder: Path, of: dict[str, list[str]]) -> dict[str, bool]:
    store = folder / ".dvc/cache/files/md5"
    return {state: all((store / oid[:2] / oid[2:]).exists() for oid in oids) for state, oids in of.items()}


@pytest.mark.hardening("L65", "`temper gc` where data changed: registered, of a preset, of nothing; beside a run")
@pytest.mark.usefixtures("versions")
def test_what_a_version_needs_stays_and_what_nothing_needs_goes(
    lived: tuple[Path, dict[str, list[str]], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, of, _ = lived
    # DVC's own command would take all but what is in the workspace, whatever it is asked for.
    for scope in ("--workspace", "--all-commits"):
        assert "Removed 6 objects" in dvc(folder, "gc", scope, "--dry", "--force"), scope
    command.gc(folder, dry_run=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "would remove 2 objects of DVC's cache; what this checkout and 1 registered versions need stays" in said
    assert "nothing is kept for them: digits 2" in said
    assert all(there(folder, of).values())

    with chdir(folder), driver_lock(), pytest.raises(AtWork):
        command.gc(folder, dry_run=False)
    assert all(there(folder, of).values())

    command.gc(folder, dry_run=False)
    assert "removed 2 objects" in capsys.readouterr().out
    assert there(folder, of) == {"registered": True, "preset": True, "nothing": False, "now": True}


@pytest.mark.hardening("L65", "`temper gc` where DVC cannot read a commit that a version names")
@pytest.mark.usefixtures("versions")
def test_nothing_goes_while_it_is_not_known_what_is_in_use(
    lived: tuple[Path, dict[str, list[str]], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, of, _ = lived
    blob = snapshot.store(folder, b"stages: [")
    tree = snapshot.working_tree(folder, {"dvc.yaml": blob})
    broken = snapshot.git("commit-tree", tree, cwd=folder, given=b"broken")
    monkeypatch.setattr(registry, "versions", lambda name: [registry.Version(3, "", {"git.commit": broken})])
    before = there(folder, of)
    with pytest.raises(Exception, match="nothing was removed: DVC cannot say what is in use"):
        command.gc(folder, dry_run=False)
    assert there(folder, of) == before


def test_the_doctor_and_the_docs_name_the_command_that_is_safe(root: Path) -> None:
    for path in (
        *(root / "docs").glob("*.md"),
        root / "README.md",
        *root.glob("temper/*.py"),
        *root.glob("flows/*.py"),
    ):
        for line in path.read_text("utf-8").splitlines():
            assert "dvc gc --" not in line, f"{path}: {line}"
