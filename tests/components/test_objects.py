"""Objects of DVC's cache by their hash: named as DVC names them, and never trusted."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components import objects
from components.objects import Unusable
from tests.workspace import with_one_stage

DAG = "stages:\n  make:\n    cmd: sh make.sh\n    outs: [folder, file]\n"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Names that sort otherwise with their slashes than by their parts.
    lines = ["mkdir -p folder/a folder/a-b", "echo 1 > folder/a/x", "echo 2 > folder/a-b/x", "echo 3 > file"]
    folder = with_one_stage(tmp_path_factory.mktemp("objects"), DAG, "\n".join(lines))
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=folder, check=True)
    return folder


@pytest.fixture
def store(workspace: Path, tmp_path: Path) -> Path:
    assert objects.cache(workspace) == workspace / ".dvc/cache/files/md5"
    return Path(shutil.copytree(workspace / ".dvc/cache/files/md5", tmp_path / "store"))


def outs(workspace: Path) -> dict[str, str]:
    return objects.locked((workspace / "dvc.lock").read_text())["make"]


def test_outputs_are_named_as_dvc_names_them(workspace: Path) -> None:
    named = {path: objects.name_of(objects.found(workspace / path)) for path in ("folder", "file")}
    assert named == outs(workspace)


def test_what_is_placed_is_what_was_there(workspace: Path, store: Path, tmp_path: Path) -> None:
    for path, oid in outs(workspace).items():
        objects.place(store, oid, tmp_path / "to" / path)
        assert objects.found(tmp_path / "to" / path) == objects.found(workspace / path)
    assert objects.read(store, outs(workspace)["folder"], "a-b/x") == b"2\n"
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["file", "folder"]


def _file(store: Path, oid: str) -> Path:
    path = store / oid[:2] / oid[2:]
    path.chmod(0o644)
    return path


@pytest.mark.hardening("C16", "objects of the cache are corrupt, or gone")
def test_corrupt_and_missing_objects_are_found_and_nothing_is_replaced(
    workspace: Path, store: Path, tmp_path: Path
) -> None:
    oid = outs(workspace)["folder"]
    to = tmp_path / "to"
    to.mkdir()
    (to / "mine").write_text("stays")
    broken = _file(store, objects.listing(store, oid)["a/x"])
    broken.write_text("9\n")
    with pytest.raises(Unusable, match=r"is corrupt, its MD5 is [0-9a-f]{32}"):
        objects.place(store, oid, to)
    with pytest.raises(Unusable, match="is corrupt"):
        objects.read(store, oid, "a/x")
    broken.unlink()
    with pytest.raises(Unusable, match="is not in DVC's cache"):
        objects.place(store, oid, to)
    _file(store, oid).write_text("[]")
    with pytest.raises(Unusable, match="is corrupt"):
        objects.listing(store, oid)
    _file(store, oid).unlink()
    with pytest.raises(Unusable, match="is not in DVC's cache"):
        objects.place(store, oid, to)
    assert [path.name for path in to.iterdir()] == ["mine"]
    assert sorted(path.name for path in to.parent.iterdir()) == ["store", "to"]


def test_a_listing_that_leads_outside_is_refused(store: Path, tmp_path: Path) -> None:
    content = json.dumps([{"md5": "0" * 32, "relpath": "../../outside"}]).encode()
    oid = f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}.dir"
    (store / oid[:2]).mkdir(exist_ok=True)
    (store / oid[:2] / oid[2:]).write_bytes(content)
    with pytest.raises(Unusable, match="outside of its folder"):
        objects.place(store, oid, tmp_path / "to")
