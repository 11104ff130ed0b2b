"""A store with three registered versions, signed and not, which tests may damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components import promote, registry, signing, tracking

ROOT = Path(__file__).parents[2]
SIGNED, OTHER, UNSIGNED = 1, 2, 3


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory,
    empty_store: Path,
    make_build: Callable[..., str],
    decide: Callable[..., Any],
) -> Iterator[Path]:
    """The current folder is a workspace with two versions signed by key `own` and one without a signature."""
    folder = tmp_path_factory.mktemp("signed")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / "mlruns").mkdir()
    shutil.copy(empty_store, folder / "mlruns/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "TEMPER_ROOT", "TEMPER_VERIFY_KEY", "TEMPER_SIGNING_KEY", "DVC_EXP_NAME"):
            patch.delenv(name, raising=False)
        for name in ("own", "other"):
            signing.make(Path(name))
        for variant, scale in (("base", 1.0), ("lora", 2.0), ("pruned", 3.0)):
            if variant == "pruned":
                patch.delenv("TEMPER_SIGNING_KEY")
            else:
                patch.setenv("TEMPER_SIGNING_KEY", str(folder / "own"))
            decision = decide(f"{variant}/fp32", make_build(variant, "fp32", scale))
            places = ("work/builds", "work/engines", "work/matrix", "work/data/prepared")
            number = promote._register("digits", decision["winner"], *map(Path, places))
        tracking.client().set_registered_model_alias("digits", "champion", str(number))
        shutil.copytree("mlruns/artifacts", "whole")
        yield folder


@pytest.fixture
def keyed(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPER_VERIFY_KEY", str(store / "own.pub"))
    return store


@pytest.fixture
def restored(store: Path) -> Iterator[Path]:
    """The store may be damaged; it is whole again after."""
    yield store
    restore()


def restore() -> None:
    shutil.rmtree("mlruns/artifacts")
    shutil.copytree("whole", "mlruns/artifacts")


def folder_of(number: int) -> Path:
    version = registry.version("digits", number)
    assert version is not None
    folder = registry.files(version.source)
    assert folder is not None
    return folder
