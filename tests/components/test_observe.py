from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import failures, observe, promote, tracking
from components.cell import Record
from components.hashing import sha256_tree

pytestmark = pytest.mark.usefixtures("no_smoke")
ROOT = Path(__file__).parents[2]
OUT = Path("work/observed")


@pytest.fixture
def look(tracked: Path) -> Callable[[], str]:
    """look(): run observe as the stage does; returns one hash over all that it wrote."""
    from components import params

    values = params.load(Path("params.yaml")).model_dump(mode="json", by_alias=True)
    wanted = {key: values[key] for key in ("name", "source", "prepare", "init", "variants", "targets", "policy")}

    def run() -> str:
        aside = Path("work/aside")
        aside.mkdir(parents=True)
        observe.run(**wanted, out=aside, previous=OUT if OUT.exists() else None)
        shutil.rmtree(OUT, ignore_errors=True)
        aside.rename(OUT)
        return sha256_tree(OUT)

    return run


def apply(decision: dict[str, Any]) -> None:
    promote.apply(
        "digits",
        decision,
        Path("work/builds"),
        Path("work/engines"),
        Path("work/predictions"),
        Path("work/matrix"),
        Path("work/data/prepared"),
    )


def champion() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((OUT / "champion.json").read_text("utf-8"))
    return read


def test_own_promotion_is_no_news_rollback_is(
    look: Callable[[], str], make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    first = look()
    assert look() == first and champion()["version"] is None
    one = make_build("base", "fp32")
    apply(decide("base/fp32", one, champion()))
    assert look() == first, "promoting what was decided must wake nothing"

    Path("params.yaml").write_text(Path("params.yaml").read_text("utf-8") + "# changed\n", "utf-8")
    look()
    assert (champion()["version"], champion()["digest"]) == (1, one), "a new run meets the real champion"
    assert champion()["metrics"]["accuracy"] == 0.9
    two = make_build("lora", "fp32", 2.0)
    apply(decide("lora/fp32", two, champion()))
    before = sha256_tree(OUT)
    assert look() == before

    client = tracking.client()
    client.set_registered_model_alias("digits", "champion", "1")  # as the MLflow UI does
    rolled_back = look()
    assert rolled_back != before
    assert (champion()["version"], champion()["rolled_back"]) == (1, [two])
    assert look() == rolled_back, "and once seen it is no news any more"


def test_promotion_from_elsewhere_is_news(
    look: Callable[[], str], make_build: Callable[..., str], decide: Callable[..., Any]
) -> None:
    look()
    mine = decide("base/fp32", make_build("base", "fp32"), champion())
    apply(mine)
    before = look()
    theirs = make_build("lora", "fp32", 2.0)
    known = {"version": 1}
    apply(decide("lora/fp32", theirs, known))
    Path("work/decision/decision.json").write_text(json.dumps(mine), "utf-8")  # this workspace decided otherwise
    assert look() != before
    assert champion()["digest"] == theirs and champion()["rolled_back"] == []


def test_attempts_rise_with_failures_and_never_fall() -> None:
    variants, targets = {"base": {}, "lora": {}}, {"fp32": {}, "int8": {}}
    nothing = dict.fromkeys(failures.STAGES, ())
    none = {stage: {"base": {}, "lora": {}} for stage in failures.STAGES}
    once = observe.attempts(variants, targets, {**nothing, "build": ("base/int8", "gone/fp32")}, {})
    assert once == {**none, "build": {"base": {"int8": 1}, "lora": {}}}
    assert observe.attempts(variants, targets, nothing, once) == once
    twice = observe.attempts(variants, targets, {**nothing, "build": ("base/int8",), "engine": ("lora/fp32",)}, once)
    assert twice == {
        **none,
        "build": {"base": {"int8": 2}, "lora": {}},
        "engine": {"base": {}, "lora": {"fp32": 1}},
    }


@pytest.mark.parametrize(
    ("records", "cells", "stage", "cell"),
    [
        (["builds/base/int8_static", "predictions/base/int8_static"], ["base/int8_static"], "build", "int8_static"),
        (["builds/base/export", "engines/base/trt_int8", "predictions/base/trt_int8"], [], "build", "trt_int8"),
        (["engines/base/trt_int8", "predictions/base/trt_int8"], ["base/trt_int8"], "engine", "trt_int8"),
        (["predictions/base/fp32"], [], "evaluate", "fp32"),
        ([], ["base/fp32"], "benchmark", "fp32"),
    ],
)
def test_a_failed_cell_wakes_only_the_stage_it_failed_in(
    look: Callable[[], str], records: list[str], cells: list[str], stage: str, cell: str
) -> None:
    for folder in records:
        Record("failed", "boom").write(Path("work", folder))
    for folder in ("builds/lora/fp32", "engines/lora/trt_int8", "predictions/lora/fp32"):
        Record("ok").write(Path("work", folder))
    Path("work/benchmark").mkdir(parents=True)
    said = {"lora/fp32": {"status": "ok"}, **{name: {"status": "failed"} for name in cells}}
    Path("work/benchmark/cells.json").write_text(json.dumps(said), "utf-8")
    # The matrix repeats what the stages said, and must not be counted beside them.
    Path("work/matrix").mkdir()
    row = {"variant": "base", "target": cell, "status": "failed"}
    Path("work/matrix/matrix.json").write_text(json.dumps({"cells": [row]}), "utf-8")
    look()
    counted = json.loads((OUT / "attempts.json").read_text("utf-8"))
    none = {variant: {} for variant in ("base", "lora", "pruned", "distilled", "compact")}
    assert counted == {**dict.fromkeys(failures.STAGES, none), stage: {**none, "base": {cell: 1}}}


def test_timings_cut_short_do_not_stop_what_will_make_them_again(look: Callable[[], str]) -> None:
    Path("work/benchmark").mkdir(parents=True)
    Path("work/benchmark/cells.json").write_text('{"base/fp32": {"status": "fai', "utf-8")
    look()
    assert not any(json.loads((OUT / "attempts.json").read_text("utf-8"))["benchmark"].values())


def test_family_files_follow_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    init = {"model": {"family": "vit"}}
    variants = {
        "base": {"from": "init", "pass": "train"},
        "small": {"from": "base", "pass": "distill", "model": {"family": "mlp"}},
        "compact": {"from": "small", "pass": "prune"},
    }
    names = {
        variant: [Path(path).stem for path in observe.family_files(variant, variants, init)] for variant in variants
    }
    assert names == {"base": ["vit"], "small": ["mlp", "vit"], "compact": ["mlp"]}


@pytest.mark.parametrize(
    "words",
    [["observe", "out=work/observed"], ["promote", *(f"{name}=work/{name}" for name in ("decision", "matrix"))]],
)
def test_no_news_needs_no_heavy_import(
    tracked: Path, make_build: Callable[..., str], decide: Callable[..., Any], words: list[str]
) -> None:
    decision = decide("base/fp32", make_build("base", "fp32"))
    apply(decision)
    Path("work/engines").mkdir()
    Path("work/predictions").mkdir()
    if words[0] == "promote":
        words += ["builds=work/builds", "engines=work/engines", "predictions=work/predictions"]
        words += ["data=work/data/prepared"]
    check = (
        "import sys; from components import stage; code = stage.main(sys.argv[1:]);"
        "heavy = {'mlflow', 'torch', 'pydantic', 'numpy', 'pandas', 'pyarrow', 'ruamel', 'sklearn'} & set(sys.modules);"
        "sys.exit(code or ' '.join(sorted(heavy)) or 0)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):  # the first time checks the params, and remembers that they are right
        done = subprocess.run(
            [sys.executable, "-c", check, *words], env=env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
