"""What is gone from the DAG goes from work/ and dvc.lock, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import leftovers


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("work/models/old", True),
        ("work/models/base", False),
        ("work/models/base/inner", False),  # belongs to base
        ("work/models", False),  # holds base
        ("work/models/base2", True),
        ("work", False),
        ("params.yaml", False),
        ("../work/models/old", False),
        ("work/../params.yaml", False),
        ("/work/models/old", False),
    ],
)
def test_only_what_no_stage_owns_below_work(path: str, gone: bool) -> None:
    assert leftovers._unowned(path, {"work/models/base", "work/models/init"}) is gone


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (tmp_path / "work").mkdir()
    (tmp_path / "work/link").symlink_to(tmp_path / "precious")
    leftovers._remove(Path("work/link/file"))
    leftovers._remove(Path("work/link"))
    assert (tmp_path / "precious/file").exists() and not (tmp_path / "work/link").is_symlink()


def test_a_removed_variant_leaves_nothing(served: Any) -> None:
    assert served.drive()[0] == 0
    served.write("work/make/note.txt", "mine")
    served.begun()
    served.write("params.yaml", "variants:\n  a: {n: 1}\n  c: {n: 3}\n")
    code, _, _ = served.drive()
    assert code == 0
    assert sorted(path.name for path in (served.path / "work/make").iterdir()) == ["a", "c", "note.txt"]
    assert "make@b" not in YAML(typ="safe").load((served.path / "dvc.lock").read_text())["stages"]
    assert served.begun() == ["join", "observe", "promote"]  # it reads the folder

    served.drive()
    assert served.begun() == ["observe", "promote"]
