"""The layout's rules (docs/design.md): who may import what, and what makes a stage stale.

`lint-imports` holds that imports run one way; here is what needs dvc.yaml or single libraries.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from components import host
from components.params import Params

ROOT = Path(__file__).resolve().parents[2]
DAG: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
BODY = {name: stage.get("do", stage) for name, stage in DAG.items()}

# A change in these wakes no stage. Dict modules: a new member must not retrain the old ones; members are
# named in deps, or hashed into code.json by observe. The rest: they decide no bytes of an output.
EXEMPT = {
    *(f"components.{name}" for name in ("schemas", "sources", "tasks", "families", "passes", "targets", "runtimes")),
    *(
        f"components.{name}"
        for name in ("params", "stage", "tracking", "versions", "backlog", "runs", "record", "errors", "hashing")
    ),
    "components.redaction",
    "components.disk",
    "components.ending",
    "components.scratch",
    "components",
}
# Libraries that may be imported in these files only.
ONLY = {
    "mlflow": {"components.tracking", "components.versions", "components.loader", "components.smoke_client"},
    "great_expectations": {"components.rules", "components.expectations"},
    "tensorrt": {"components.targets.tensorrt", "components.runtimes.tensorrt"},
    "prefect": {"flows"},
    "model_signing": {"components.signing"},
    "cryptography": {"components.signing"},
    "dvc": {"flows", "components.verified_ssh"},
    "peft": {"components.passes.lora"},
    "torch_pruning": {"components.passes.prune"},
    "kornia": {"components.augment"},
}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("components", "flows", "temper", include_external_packages=True)


@cache
def graph_at_work() -> grimp.ImportGraph:
    """Without imports for type checkers only."""
    return grimp.build_graph("components", include_external_packages=True, exclude_type_checking_imports=True)


@pytest.mark.parametrize("library", ONLY)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    modules = graph().modules
    if library not in modules:
        pytest.fail(f"nothing imports {library}: is the rule out of date?")
    importers = graph().find_modules_that_directly_import(library)
    assert all(any(m == allowed or m.startswith(f"{allowed}.") for allowed in ONLY[library]) for m in importers), (
        importers
    )


@pytest.mark.parametrize("module", ["components.stage", "components.observe", "components.promote", "temper.__main__"])
def test_what_runs_every_time_imports_nothing_heavy(module: str) -> None:
    """In a new process: the no-op's cost is these imports."""
    import subprocess
    import sys

    heavy = "torch transformers mlflow great_expectations pandas onnx onnxruntime prefect sklearn scipy pyarrow dvc"
    code = f"import sys, {module}; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def file_of(module: str) -> str:
    path = Path(*module.split("."))
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def closure(start: str) -> set[str]:
    """`start` and all of Temper's modules it computes with, not looking through the exempt ones."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        exempt = module in EXEMPT or module.startswith("components.params.")
        if module in seen or exempt or not module.startswith("components."):
            continue
        seen.add(module)
        todo.extend(graph().find_modules_directly_imported_by(module))
    return seen


@cache
def resolved() -> dict[str, Any]:
    """Stages of dvc.yaml with all templates filled in, by DVC itself."""
    from dvc.repo import Repo

    before = Path.cwd()
    os.chdir(ROOT)
    try:
        with Repo(".") as repo:
            return {stage.addressing: stage for stage in repo.index.stages if hasattr(stage, "name")}
    finally:
        os.chdir(before)


@pytest.mark.parametrize("verb", DAG)
def test_deps_cover_the_code_a_stage_imports(verb: str) -> None:
    stages = [stage for name, stage in resolved().items() if name.partition("@")[0] == verb]
    assert stages
    for stage in stages:
        deps = {Path(dep.fs_path).relative_to(ROOT).as_posix() for dep in stage.deps if dep.protocol == "local"}
        code = {dep for dep in deps if dep.endswith(".py")}
        needed = {file_of(m) for start in [f"components.{verb}", *map(module_of, code)] for m in closure(start)}
        assert needed <= code, f"{stage.addressing}: add to deps in dvc.yaml: {sorted(needed - code)}"
        assert code <= needed, f"{stage.addressing}: not imported, take out of deps: {sorted(code - needed)}"


@pytest.mark.parametrize(
    ("verb", "members"),
    [
        ("build", ("families", "tasks", "targets", "runtimes")),
        ("engine", ("tasks", "targets", "runtimes")),
        ("evaluate", ("tasks", "runtimes")),
    ],
)
def test_a_cell_is_made_with_the_code_of_its_stage(verb: str, members: tuple[str, ...]) -> None:
    """CODE, from which cells are told to be the same, is what dvc.yaml's deps list: all that the stage computes with,
    and all that its members, which are named one by one, bring."""
    code = importlib.import_module(f"components.{verb}").CODE
    assert len(set(code)) == len(code)
    modules = {module for package in members for module in graph().find_children(f"components.{package}")}
    brought = {file_of(found) for module in modules for found in closure(module)} - {file_of(m) for m in modules}
    assert set(code) == {file_of(module) for module in closure(f"components.{verb}")} | brought
    assert set(code) == {dep for dep in BODY[verb]["deps"] if dep.endswith(".py") and "$" not in dep}


# Packages of which observe hashes what is in use, member by member, into code.json.
BY_OBSERVE = {"make": ("families",), "build": ("families", "targets", "runtimes"), "engine": ("targets", "runtimes")}
BY_OBSERVE |= dict.fromkeys(("evaluate", "champion", "benchmark"), ("runtimes",))


@pytest.mark.hardening("B14", "of the libraries that a stage computes with, one has another version")
@pytest.mark.parametrize("verb", [verb for verb in DAG if verb not in ("observe", "promote")])  # they run every time
def test_a_stage_is_stale_when_a_library_that_it_computes_with_changes(verb: str) -> None:
    """Of host.LIBRARIES, a stage's entry lists at least those that its code and its members' import."""
    starts = {
        module for package in BY_OBSERVE.get(verb, ()) for module in graph().find_children(f"components.{package}")
    }
    for name, stage in resolved().items():
        if name.partition("@")[0] == verb:
            starts |= {
                module_of(Path(dep.fs_path).relative_to(ROOT).as_posix())
                for dep in stage.deps
                if dep.fs_path.endswith(".py")
            }
    code = {module for start in starts for module in closure(start)}
    imported = {library for module in code for library in graph_at_work().find_modules_directly_imported_by(module)}
    entries = [entry for entry in BODY[verb].get("params", []) if isinstance(entry, dict)]
    listed = {key for entry in entries for keys in entry.values() for key in keys}
    needed = (imported & set(host.LIBRARIES)) - ({"tensorrt"} if verb == "build" else set())  # its targets are engine's
    assert needed <= listed, f"{verb}: add to its host.json in dvc.yaml: {sorted(needed - listed)}"


@pytest.mark.parametrize("verb", DAG)
def test_a_stage_is_stale_when_the_params_it_is_given_change(verb: str) -> None:
    """The sections in a stage's signature are those its dvc.yaml entry lists: not one more, not one less."""
    sections = {field.alias or name for name, field in Params.model_fields.items()} | {"variant"}
    given = set(inspect.signature(importlib.import_module(f"components.{verb}").run).parameters) & sections
    listed = {entry for entry in BODY[verb].get("params", []) if isinstance(entry, str)}
    assert {"variant" if entry == "variants.${key}" else entry for entry in listed} == given


@pytest.mark.parametrize("verb", DAG)
def test_every_path_a_stage_is_given_is_declared(verb: str) -> None:
    """Each name=path of a command is a dep or an output in dvc.yaml, and an argument of `run`."""
    body = BODY[verb]
    words = dict(word.split("=", 1) for word in body["cmd"].split() if "=" in word)
    arguments = set(inspect.signature(importlib.import_module(f"components.{verb}").run).parameters)
    outputs = {
        next(iter(x)) if isinstance(x, dict) else x for k in ("outs", "metrics", "plots") for x in body.get(k, [])
    }
    inputs = set(body.get("deps", []))
    inputs |= {key for entry in body.get("params", []) if isinstance(entry, dict) for key in entry}
    for name, path in words.items():
        if name in ("out", "metrics", "curve"):
            assert path in outputs
        else:
            assert name in arguments
            assert any(path == known or path.startswith(f"{known}/") for known in inputs), f"{verb}: {path} is no dep"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "docs/design.md", "docs/signing.md"])
def test_files_and_names_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    files = re.findall(r"`((?:benchmarks|components|flows|infra|presets|temper|tests|\.ci)/[\w/.-]+\.\w+)`", text)
    assert files or page == "docs/signing.md"
    assert [file for file in files if not (ROOT / file).exists()] == []
    named = re.findall(r"`(\w+)`(?:,| in) `([\w/.]+/[\w.]+\.py)`", text)
    gone = [(name, file) for name, file in named if not re.search(rf"\b{name}\b", (ROOT / file).read_text("utf-8"))]
    assert gone == []
