"""docs/reliability.md is what benchmarks/drill.py makes of the drill that it keeps; and what it calls held and lost."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

CASES = """
import pytest
@pytest.mark.hardening("A1", "it is killed")
@pytest.mark.parametrize("n", [1, 2])
def test_it_ends_green(n, record_property):
    record_property("times", 3)
@pytest.mark.drill
@pytest.mark.hardening("J54", "a gate fails")
def test_it_is_refused():
    assert {right}
@pytest.mark.hardening("B9", "no fork here")
@pytest.mark.skipif(True, reason="needs a moon")
def test_it_waits(): ...
def test_of_no_point(): assert False
"""


@pytest.fixture(scope="module")
def drill(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("drill", root / "benchmarks/drill.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["drill"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_of_reliability_is_made_from_the_kept_drill(drill: ModuleType) -> None:
    assert drill.PAGE.read_text("utf-8") == drill.page(json.loads(drill.KEPT.read_text("utf-8")))


@pytest.mark.parametrize("right", [True, False])
def test_it_counts_what_was_done_and_ends_with_1_if_anything_was_lost(root: Path, tmp_path: Path, right: bool) -> None:
    (tmp_path / "test_cases.py").write_text(CASES.format(right=right))
    done = subprocess.run(
        [sys.executable, str(root / "benchmarks/drill.py"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == (0 if right else 1), done.stdout + done.stderr
    rows = {words[0]: words for line in done.stdout.splitlines() if (words := line.split()) and words[0][-1].isdigit()}
    assert rows["A1"][4:10] == ["6", "it", "ends", "green", "held", "0.0"]
    assert ("held" if right else "lost") in rows["J54"] and "skipped" in rows["B9"]
    assert ("nothing lost" if right else "3 tests, 1 lost") in done.stdout


def test_what_was_lost_is_tried_again_and_takes_its_place(
    drill: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose tests need each other is tried again whole."""
    for name, head in (("test_alone.py", ""), ("test_row.py", "\nIN_ORDER = True\n")):
        (tmp_path / name).write_text(head)
    lines = [
        drill.Line(point, "", "", test, 1, 1.0, "lost" if lost else "held", lost=lost)
        for point, test, lost in (
            ("A1", "test_alone.py::test_a", ["test_alone.py::test_a[2]"]),
            ("A2", "test_alone.py::test_b", []),
            ("B9", "test_row.py::test_c", ["test_row.py::test_c"]),
            ("B10", "test_row.py::test_d", ["test_row.py::test_d"]),
        )
    ]
    monkeypatch.setattr(drill, "ROOT", tmp_path)
    places = drill.again(lines)
    assert places == ["test_alone.py::test_a[2]", "test_row.py"]
    now = [drill.Line(line.point, "", "", line.test, 2, 3.0) for line in (lines[0], lines[2])]
    found = drill.merged(lines, now, places)
    assert [(line.point, line.outcome, line.times, line.seconds) for line in found] == [
        ("A1", "held", 3, 4.0),
        ("A2", "held", 1, 1.0),
        ("B9", "held", 2, 3.0),
        ("B10", "lost", 1, 1.0),
    ]


def test_what_did_not_come_to_an_end_is_lost(drill: ModuleType) -> None:
    mark = SimpleNamespace(args=("A1", "it is killed"))
    items = [SimpleNamespace(nodeid=f"test_a.py::test_b[{n}]", iter_markers=lambda _: [mark]) for n in range(2)]
    found = drill.Collector()
    found.pytest_collection_finish(SimpleNamespace(items=items))
    (line,) = found.lines.values()
    assert (line.outcome, len(line.lost)) == ("lost", 2)
    for when in ("setup", "call", "teardown"):
        said = {"failed": False, "skipped": False, "passed": True, "duration": 1.0, "user_properties": []}
        found.pytest_runtest_logreport(SimpleNamespace(nodeid=items[0].nodeid, when=when, **said))
    assert (line.outcome, line.lost, line.times) == ("lost", [items[1].nodeid], 1)


def test_cases_that_take_long_are_shared_out_and_all_else_by_file(drill: ModuleType, root: Path) -> None:
    def unit(case: str) -> str:
        return str(drill.ByFile._split_scope(None, case))

    stages = next((root / "tests").rglob("test_a_crash_stages.py"))
    assert f"def {drill.APART.removeprefix('::')}" in stages.read_text("utf-8")
    assert unit(f"a.py{drill.APART}x[tree]") != unit(f"a.py{drill.APART}x[child]")
    assert unit("a.py::test_x[1]") == unit("a.py::test_y") == "a.py"


def test_what_takes_long_begins_first(drill: ModuleType) -> None:
    def item(name: str) -> SimpleNamespace:
        return SimpleNamespace(nodeid=name, path=Path(name.partition("::")[0]), get_closest_marker=lambda mark: mark)

    items = [item("a.py::test_x"), item(f"b.py{drill.APART}x[tree]"), item("c.py::test_y")]
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None))
    drill.pytest_collection_modifyitems(config, items)
    assert [one.nodeid[0] for one in items] == ["b", "a", "c"]
