"""What a preset makes of params.yaml."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from components import params
from components.errors import ParamsError
from flows import overlay, standing

ROOT = Path(__file__).resolve().parents[2]
PLAIN = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
MAPPING = st.recursive(PLAIN, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3), max_leaves=8)
SECTIONS = st.dictionaries(st.sampled_from([*overlay.WHOLE, "policy", "compare", "seed"]), MAPPING)


@given(SECTIONS, SECTIONS)
def test_sections_replace_as_a_whole_or_merge_key_by_key(base: dict[str, Any], preset: dict[str, Any]) -> None:
    whole = overlay.overlay(base, preset)
    assert set(whole) == set(base) | set(preset)
    for name, value in whole.items():
        above, below = preset.get(name), base.get(name)
        if name not in preset:
            assert value == below
        elif name in overlay.WHOLE or not (isinstance(above, dict) and isinstance(below, dict)):
            assert value == above
        else:
            assert set(value) == set(above) | set(below)
            assert all(value[key] == below[key] for key in set(below) - set(above))
            assert all(value[key] == above[key] for key in above if not isinstance(above[key], dict))
    assert overlay.overlay(whole, preset) == whole
    assert overlay.overlay(base, {}) == base


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "presets").mkdir()
    return tmp_path.resolve()


def write(root: Path, name: str, /, **values: Any) -> None:
    with (root / f"presets/{name}.yaml").open("w") as file:
        YAML(typ="safe").dump(values, file)


def test_the_text_says_what_was_merged_and_from_what(root: Path) -> None:
    write(root, "other", name="other", policy={"margin": 0.1}, targets={"fp32": {"kind": "onnx_fp32"}})
    text = overlay.merged(root, root, "other")
    assert text.splitlines()[0] == "# Made by temper from params.yaml and presets/other.yaml: edit those, not this."
    made = YAML(typ="safe", pure=True).load(text)
    base = params.read(root / "params.yaml")
    assert made == base | {
        "name": "other",
        "policy": base["policy"] | {"margin": 0.1},
        "targets": {"fp32": {"kind": "onnx_fp32"}},
    }
    assert list(made) == list(base)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "name: is missing"),
        ({"name": "digits"}, "name: 'digits' is that of params.yaml"),
        ({"name": "taken"}, "name: 'taken' is that of presets/second.yaml"),
        ({"name": "own", "threads": 0}, "threads: input should be greater"),
        ({"name": "own", "polcy": {}}, "polcy: unknown key"),
        ({"name": "own", "source": []}, "source: must be a source or a list of them"),
        ({"name": "own", "source": "digits"}, "source: "),
    ],
)
def test_what_is_wrong_names_the_preset(values: dict[str, Any], said: str, root: Path) -> None:
    write(root, "second", name="taken")
    write(root, "first", **values)
    with pytest.raises(ParamsError) as error:
        overlay.merged(root, root, "first")
    assert all(line.startswith("presets/first.yaml: ") for line in error.value.errors)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["nosuch", "../params", "", "A", "a/b"])
def test_no_such_preset(name: str, root: Path) -> None:
    write(root, "there", name="there")
    with pytest.raises(ParamsError, match=r"no such preset; there are: there"):
        overlay.find(root, name)


@pytest.mark.parametrize("name", ["news\n", "../news", "a b", ""])
def test_no_worktree_is_called_so(name: str, root: Path) -> None:
    with pytest.raises(ParamsError, match="small letters, digits and _ only"):
        standing.path(root, name)


def test_a_data_set_in_a_folder_is_that_of_the_main_checkout(root: Path) -> None:
    (root / "main/reviews").mkdir(parents=True)
    for dataset, found in (("reviews", str(root / "main/reviews")), ("owner/reviews", "owner/reviews")):
        hub = {"kind": "hub", "dataset": dataset}
        assert overlay.choose_source(hub, root / "main") == {**hub, "dataset": found}


def test_the_first_source_whose_data_are_there(root: Path) -> None:
    main = root / "main"
    main.mkdir()
    (root / "beside.csv").touch()
    gone, there = ({"kind": "csv", "path": path} for path in ("gone.csv", "../beside.csv"))
    hub = {"kind": "hub", "name": "x"}
    found = {"kind": "csv", "path": str(root / "beside.csv")}
    assert overlay.choose_source([gone, there, hub], main) == found
    assert overlay.choose_source(there, main) == found
    assert overlay.choose_source([gone, hub], main) == hub
    with pytest.raises(ParamsError, match=rf"looked for {main}/gone.csv; put"):
        overlay.choose_source([gone], main)


def test_a_corpus_has_its_own_list_of_sources(root: Path) -> None:
    (root / "beside.jsonl").touch()
    gone, there = ({"kind": "jsonl", "path": path} for path in ("gone.jsonl", "beside.jsonl"))
    write(root, "told", name="told", prepare={"corpus": {"source": [gone, there], "column": "text"}})
    with pytest.raises(ParamsError, match=r"prepare\.corpus: is for texts"):  # found, and then checked
        overlay.merged(root, root, "told")
    write(root, "told", name="told", prepare={"corpus": {"source": [gone], "column": "text"}})
    with pytest.raises(ParamsError, match=rf"prepare\.corpus\.source: no data are there, looked for {root}/gone"):
        overlay.merged(root, root, "told")


def test_a_local_checkpoint_is_that_of_the_checkout(root: Path) -> None:
    (root / "models/mine").mkdir(parents=True)
    for said, found in {
        "models/mine": f"{root}/models/mine",
        "./gone": f"{root}/gone",  # told by observe, as in a workspace without presets
        "microsoft/resnet-50": "microsoft/resnet-50",
    }.items():
        assert overlay.find_checkpoint({"model": {"checkpoint": said}}, root)["model"]["checkpoint"] == found
    for other in ({"model": {"family": "mlp"}}, {"model": None}, None):
        assert overlay.find_checkpoint(other, root) == other


@pytest.mark.parametrize("name", overlay.names(ROOT))
def test_every_preset_that_ships_is_sound_with_each_of_its_sources(name: str) -> None:
    whole = overlay.overlay(params.read(ROOT / "params.yaml"), params.read(overlay.find(ROOT, name)))

    def sources(given: Any) -> list[Any]:
        listed = given if isinstance(given, list) else [given]
        return [{**one, "path": one["path"].removeprefix("../")} if "path" in one else one for one in listed]

    prepare, corpus = whole["prepare"], whole["prepare"].get("corpus")
    for source in sources(whole["source"]):
        for beside in sources(corpus["source"]) if corpus else [None]:
            found = {**prepare, "corpus": {**corpus, "source": beside}} if beside else prepare
            params.check({**whole, "source": source, "prepare": found})
