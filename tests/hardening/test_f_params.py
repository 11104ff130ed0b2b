"""What params.yaml may not say is refused before any work, with the path of the key; none of it reaches a shell."""

from __future__ import annotations

import ast
import copy
import re
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import params
from components.errors import ParamsError
from flows import overlay
from tests.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
FREE = {"arguments", "config"}  # what Great Expectations and transformers take: they check it themselves
HOSTILE = [
    "../x",
    "a/../../x",
    "~/x",
    "$(touch harm)",
    "`touch harm`",
    "x; touch harm",
    "x\ntouch harm",
    "x | touch harm",
]
HOSTILE += ["x > harm", "%2e%2e/x", "x\0y", "a\\b", "x" * 4096, "\u202egnp.exe", ""]


def shipped() -> dict[str, dict[str, Any]]:
    """params.yaml, and what each preset makes of it: of a list of sources the last."""
    base = params.read(ROOT / "params.yaml")
    found = {"params.yaml": base}
    for name in overlay.names(ROOT):
        whole = overlay.overlay(base, params.read(overlay.find(ROOT, name)))
        for node in (whole, (whole.get("prepare") or {}).get("corpus") or {}):
            if isinstance(node.get("source"), list):
                node["source"] = node["source"][-1]
        found[name] = whole
    return found


SHIPPED = shipped()


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if FREE & {*path}:
        return []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    return [path] if items is None else [leaf for key, value in items for leaf in leaves(value, (*path, key))]


def value(raw: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        raw = raw[step]
    return raw


def put(file: str, path: tuple[Any, ...], given: Any) -> dict[str, Any]:
    raw: dict[str, Any] = copy.deepcopy(SHIPPED[file])
    value(raw, path[:-1])[path[-1]] = given
    return raw


def refusal(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        params.check(raw)
    return caught.value.errors


def number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


ALL = [(file, path) for file, raw in SHIPPED.items() for path in leaves(raw)]
NUMBERS = [(file, path) for file, path in ALL if number(value(SHIPPED[file], path))]
# Keys whose text names a file, a folder, a data set, a checkpoint, a variant or the model.
NAMES = [
    (file, path)
    for file, path in ALL
    if path[-1] in ("path", "dataset", "checkpoint", "name", "from", "revision")
    and isinstance(value(SHIPPED[file], path), str)
]
TEXTS = [(file, path) for file, path in ALL if isinstance(value(SHIPPED[file], path), str)]


def test_the_shipped_files_are_right() -> None:
    for raw in SHIPPED.values():
        params.check(raw)
    assert len(NUMBERS) > 300 and len(NAMES) > 20 and len(SHIPPED) >= 4


@pytest.mark.hardening("F30", "numbers of every shipped params file: NaN, infinity, 1e308, text, lists, true, mappings")
@settings(max_examples=300)
@given(
    st.sampled_from(NUMBERS),
    st.sampled_from(
        [float("nan"), float("inf"), -float("inf"), 1e308, -1e308, -1e300, "1", "", [], [1], {}, {"a": 1}, True]
    )
    | st.text(max_size=5)
    | st.floats(max_value=-2e9),
)
def test_what_is_no_number_in_range_is_refused_with_its_path(where: tuple[str, tuple[Any, ...]], bad: Any) -> None:
    file, path = where
    said = refusal(put(file, path, bad))
    full = ".".join(map(str, path))
    # A union of sections (a list of pixel values, a source) may name the list.
    assert any(line.startswith((f"{full}:", f"{full}.")) or full.startswith(line.split(":")[0]) for line in said), said


@pytest.mark.hardening("F30", "every number of every shipped params file: far below and far above its range")
@pytest.mark.parametrize("far", [-(10**12), 10**300], ids=["below", "above"])
def test_what_is_out_of_range_is_refused_with_the_range(far: int) -> None:
    for file, path in NUMBERS:
        full = ".".join(map(str, path))
        said = refusal(put(file, path, far))
        told = [line for line in said if line.startswith(f"{full}:")] or said  # a union of sections names the list
        assert all(re.search(r"(less|greater) than (or equal to )?-?[\d.e+]+, got", line) for line in told), told


@pytest.mark.hardening(
    "F30", "negative, 0, null and missing values of every number: refused with the path, or in range"
)
@settings(max_examples=200)
@given(st.sampled_from(NUMBERS), st.sampled_from(["missing", None, 0, -1, 0.0, -0.5]))
def test_what_may_be_in_range_is_taken_or_refused_with_its_path(where: tuple[str, tuple[Any, ...]], given: Any) -> None:
    file, path = where
    raw = put(file, path, given)
    if given == "missing":
        del value(raw, path[:-1])[path[-1]]
    try:
        params.check(raw)
    except ParamsError as error:
        assert all(re.match(r"[\w-]+(\.[\w*-]+)*: .", line) for line in error.errors), error.errors
        assert any(str(path[0]) in line for line in error.errors)


@pytest.mark.hardening("F30", "an unknown key in any mapping of every shipped params file")
@settings(max_examples=100)
@given(st.sampled_from(ALL), st.text(min_size=1, max_size=20))
def test_an_unknown_key_is_refused(where: tuple[str, tuple[Any, ...]], name: str) -> None:
    file, path = where
    keys = path[: max(i for i, step in enumerate(path) if isinstance(step, str))]
    here = value(SHIPPED[file], keys)
    if name in here or keys in ((), ("task", "splits"), ("variants",), ("targets",)) or name in ("augment", "views"):
        return
    raw = copy.deepcopy(SHIPPED[file])
    value(raw, keys)[f"_{name}"] = 1
    assert refusal(raw)


@pytest.mark.hardening("F31", "../, ~, $(cmd), ;, newline, NUL, %2e and 4 kB in every key that names something")
@settings(max_examples=200)
@given(st.sampled_from(NAMES), st.sampled_from(HOSTILE))
def test_names_and_paths_that_are_none_are_refused(where: tuple[str, tuple[Any, ...]], bad: str) -> None:
    file, path = where
    said = refusal(put(file, path, bad))
    assert any(line.startswith(".".join(map(str, path))) for line in said), said
    assert all(len(line) < 600 and "\n" not in line for line in said), "one line each, however long the value"


@pytest.mark.hardening("F31", "control characters and 4 kB in every text of every shipped params file")
@settings(max_examples=100)
@given(st.sampled_from(TEXTS), st.sampled_from(["a\nb", "a\rb", "a\0b", "\x1b[31mred", "a\u2028b", "x" * 4096]))
def test_texts_are_one_line(where: tuple[str, tuple[Any, ...]], bad: str) -> None:
    file, path = where
    assert refusal(put(file, path, bad))


@pytest.mark.hardening("F31", "names of variants and targets, and of presets")
@pytest.mark.parametrize("bad", [*HOSTILE, "/etc/passwd", "a b", "a-b", "${x}", "x\n"])
def test_keys_that_become_names_are_refused(bad: str) -> None:
    for section in ("variants", "targets"):
        raw = copy.deepcopy(SHIPPED["params.yaml"])
        raw[section][bad] = next(iter(raw[section].values()))
        assert any(line.startswith(section) for line in refusal(raw))
    with pytest.raises(ParamsError, match="there is no such preset"):
        overlay.find(ROOT, bad)


@pytest.mark.hardening("F31", "dvc.yaml: what of params.yaml a command line can hold")
def test_command_lines_hold_nothing_but_names() -> None:
    """DVC runs commands by a shell: what params.yaml puts into them are names, refused if they are none."""
    text = (ROOT / "dvc.yaml").read_text("utf-8")
    commands = re.findall(r"cmd: (.*)", text)
    assert len(commands) == text.count("cmd:") > 10
    assert {found for line in commands for found in re.findall(r"\$\{.*?\}", line)} == {"${key}", "${item.from}"}
    for line in commands:
        assert re.fullmatch(r"python -m components\.stage [\w ./=-]+", re.sub(r"\$\{(key|item\.from)\}", "", line))


@pytest.mark.hardening("F31", "`dvc repro` with commands in names of variants and parents: nothing of them runs")
def test_dvc_runs_no_command_from_params(tmp_path: Path) -> None:
    made = Workspace(tmp_path / "workspace")
    path = made.folder / "params.yaml"
    text = path.read_text("utf-8")
    for changed in (
        text.replace("from: base", 'from: "base; touch harm"'),
        text.replace("  pruned:", '  "a; touch harm; $(touch harm) ":', 1),
    ):
        assert changed != text
        path.write_text(changed, "utf-8")
        said = made("dvc", "repro", code=None)
        assert not list(made.folder.rglob("harm")), said
        assert "variants" in said and not (made.folder / "work/data").exists(), "refused by the first stage"
        assert "variants" in made("temper", "run", code=2)
        assert not list(made.folder.rglob("harm"))


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.hardening("F31", "every call in the code: none goes through a shell, and the linter looks for them")
def test_no_shell_is_used_anywhere() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in ruff["select"]
    silenced = {*ruff["ignore"], *(rule for rules in ruff["per-file-ignores"].values() for rule in rules)}
    assert not silenced & {"S", "S602", "S604", "S605", "S606", "S609"}
    forbidden = {f"os.{name}" for name in ("system", "popen", "execl", "execv", "spawnl", "spawnv", "startfile")}
    forbidden |= {"subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "pty.spawn"}
    forbidden |= {"eval", "exec", "pickle.load", "pickle.loads", "yaml.unsafe_load"}
    for folder in ("components", "flows", "temper", "infra", "benchmarks", ".ci"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text("utf-8")
            assert not re.search(r"noqa:.*S60[2-69]", text), path
            for call in calls(ast.parse(text)):
                assert ast.unparse(call.func) not in forbidden, f"{path}:{call.lineno}"
                assert not [word for word in call.keywords if word.arg == "shell"], f"{path}:{call.lineno}"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.hardening("F32", "YAML: aliases that repeat each other, duplicate keys, objects, depth, size")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "aliases unpack to more than 100,000 values"),
        ("a: 1\nb: 2\na: 3\n", "duplicate key"),
        ("a: {b: 1, b: 2}\n", "duplicate key"),
        ("a: !!python/object/apply:os.system ['touch harm']\n", "is not valid YAML"),
        ("a: !!python/name:os.system\n", "is not valid YAML"),
        ("a: " + "[" * 1_500 + "]" * 1_500, "is not valid YAML"),
        ("# " + "x" * 1_000_001, "larger than 1 MB"),
        ("a: " + "9" * 10_000, "is not valid YAML"),
        ("\ufeff\0", "is not valid YAML"),
    ],
    ids=["aliases", "twice", "twice inside", "object", "name", "deep", "large", "digits", "NUL"],
)
def test_yaml_that_is_not_plain_is_refused_soon(tmp_path: Path, text: str, said: str) -> None:
    path, started = tmp_path / "params.yaml", time.process_time()
    path.write_text(text, "utf-8")
    with pytest.raises(ParamsError, match=said) as caught:
        params.load(path)
    assert time.process_time() - started < 10 and len(str(caught.value)) < 1_000
    assert not Path("harm").exists()
