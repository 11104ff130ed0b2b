"""A small workspace that tracks into a store of its own, and builds that promote can register."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.components import matrices
from tests.components.packages import keyed, restored, store  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A created tracking database: making one takes seconds, copying it does not."""
    from components import registry, tracking

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.client()
        database = registry.database()
    assert database is not None
    return database


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a workspace with the real params.yaml and dvc.yaml; nothing is tracked yet."""
    for name in ("MLFLOW_TRACKING_URI", "TEMPER_ROOT", "DVC_ROOT", "TEMPER_RUN", "TEMPER_DRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "workspace"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tracked(workspace: Path, empty_store: Path) -> Path:
    """A workspace with an embedded store."""
    (workspace / "mlruns").mkdir()
    shutil.copy(empty_store, workspace / "mlruns" / "mlflow.db")
    return workspace


@pytest.fixture
def no_smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are taken to answer: the process that asks them takes seconds, and test_smoke.py sees to it."""
    from components import smoke, versions

    def passed(name: str, number: int, *_: Any) -> dict[str, Any]:
        versions.challenge(name, number)
        return {"package_sha256": None, "smoke": "passed"}

    monkeypatch.setattr(smoke, "challenger", passed)


@pytest.fixture(scope="session")
def shipped(prepared_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights as an ONNX build, with its tokenizer."""
    import torch

    from components import assemble, build, graph, runtime
    from components.data import Spec, read_rows
    from components.params import Bert, OnnxFp32
    from components.targets import TARGETS

    config = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.5,
    }
    torch.manual_seed(0)
    folder, wanted, spec = tmp_path_factory.mktemp("shipped"), OnnxFp32(kind="onnx_fp32"), Spec.read(prepared_texts)
    model = assemble.create(Bert(family="bert", architecture="bert", config=config), spec)
    build.export(model, read_rows(prepared_texts, "validation", spec).inputs, folder / "export.onnx")
    figures = TARGETS["onnx_fp32"].run(folder / "export.onnx", wanted, graph.context(prepared_texts, 1, folder), folder)
    runtime.ship(wanted, folder, prepared_texts, figures)
    return folder


@pytest.fixture(scope="session")
def make_build() -> Callable[..., str]:
    """make_build(variant, target, scale): a linear ONNX build below work/builds; returns its digest."""

    def make(variant: str, target: str, scale: float = 1.0) -> str:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        from components import runtime
        from components.data import Placing, Spec

        folder = Path("work/builds") / variant / target
        folder.mkdir(parents=True, exist_ok=True)
        weights = (scale * np.random.default_rng(0).normal(size=(64, 10))).astype(np.float32)
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["image"], ["flat"]),
                helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
            ],
            "linear",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
            [numpy_helper.from_array(weights, "weights")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, str(folder / "model.onnx"))
        spec = Spec(
            task="image_classification",
            inputs={"image": "float32"},
            vocabulary=None,
            shape=[8, 8],
            classes=[str(i) for i in range(10)],
            statistics={"mean": [4.9], "std": [6.0]},
            placing=Placing(key="row", declared=[], shares=[0.6, 0.1, 0.1, 0.2]),
        )
        made = runtime.write_build(folder, "onnx_fp32", "onnxruntime", "model.onnx", {}, spec)
        return str(made["digest"])

    return make


@pytest.fixture(scope="session")
def decide() -> Callable[..., dict[str, Any]]:
    """decide(cell, digest, champion): writes work/decision and work/matrix as if this cell had won."""

    measured = matrices.matrix()

    def write(cell: str, digest: str, champion: dict[str, Any] | None = None, failed: tuple[str, ...] = ()) -> Any:
        variant, _, target = cell.partition("/")
        row = {
            "cell": cell,
            "variant": variant,
            "target": target,
            "kind": "onnx_fp32",
            "pass": "train",
            "parent": "init",
            "status": "ok",
            "reason": "",
            "digest": digest,
            "parameters": 640,
            "size_mb": 0.003,
            "accuracy": 0.9,
            "worst_class_accuracy": 0.8,
            "accuracy_difference": 0.0,
            "accuracy_low": 0.0,
            "accuracy_high": 0.0,
            "verdict": "no worse",
            "ece": 0.01,
            "latency_ms": {"1": 0.01, "32": 0.02},
            "speedup": {"1": [1.0, 0.9, 1.1], "32": [1.0, 0.9, 1.1]},
        }
        winner = {"cell": cell, "variant": variant, "target": target, "digest": digest}
        row = {**measured["cells"][0], **row}
        matrix = {**measured, "reference": cell, "cells": [row, *measured["cells"][1:]]}
        decision = {
            "action": "promote",
            "winner": winner,
            "champion": champion or {"version": None, "digest": None},
            "objective": "latency_ms",
            "cells": {cell: {"feasible": True, "reasons": ["ok"]}},
            "nearest_miss": None,
            "failed": list(failed),
        }
        for name, value in (("matrix", matrix), ("decision", decision)):
            Path("work", name).mkdir(parents=True, exist_ok=True)
            text = json.dumps(value, indent=2) + "\n"
            Path("work", name, f"{name}.json").write_text(text, "utf-8")
            if name == "matrix":
                decision["matrix_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        Path("work/data/prepared").mkdir(parents=True, exist_ok=True)
        Path("work/data/prepared/spec.json").write_text("{}", "utf-8")
        return decision

    return write
