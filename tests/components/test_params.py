from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from components.errors import ParamsError
from components.params import check, load

ROOT = Path(__file__).resolve().parents[2]
SHIPPED: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every scalar of the shipped file."""
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]
    if isinstance(node, list):
        return [leaf for i, value in enumerate(node) for leaf in leaves(value, (*path, i))]
    return [path]


def put(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(SHIPPED)
    node: Any = raw
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return raw


def errors(raw: object) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        check(raw)
    return caught.value.errors


def test_the_shipped_file_is_right() -> None:
    assert list(load(ROOT / "params.yaml").variants) == list(SHIPPED["variants"])


def numeric(path: tuple[Any, ...]) -> bool:
    node: Any = SHIPPED
    for step in path:
        node = node[step]
    return isinstance(node, int | float) and not isinstance(node, bool) and "arguments" not in path


@pytest.mark.hardening("F30", "numbers that are none")
@given(
    st.sampled_from([p for p in leaves(SHIPPED) if numeric(p)]), st.sampled_from([float("nan"), "x", [], None, -1e300])
)
def test_a_number_that_is_none_is_refused_with_its_path(path: tuple[Any, ...], bad: Any) -> None:
    said = errors(put(path, bad))
    keys = [step for step in path if isinstance(step, str)]
    assert any(keys[0] in line and (len(keys) < 2 or keys[-1] in line) for line in said)


@pytest.mark.hardening("F30", "unknown keys")
@given(st.sampled_from([p for p in leaves(SHIPPED) if "arguments" not in p]))
def test_an_unknown_key_is_refused_wherever_it_stands(path: tuple[Any, ...]) -> None:
    keys = path[: max(i for i, step in enumerate(path) if isinstance(step, str))]
    if keys in (("variants",), ("targets",)):
        keys = (*keys, path[len(keys)])
    said = errors(put((*keys, "learning_rte"), 1))
    assert any("learning_rte" in line and "unknown key" in line for line in said)


@pytest.mark.hardening("F30", "any value in the file's place")
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_anything_else_is_refused_not_crashed_on(raw: Any) -> None:
    errors(raw)


@pytest.mark.hardening("F32", "any text as YAML")
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(text, "utf-8", errors="replace")
    with pytest.raises(ParamsError):
        load(path)


def test_all_errors_come_at_once() -> None:
    raw = copy.deepcopy(SHIPPED)
    raw["seed"] = -1
    raw["variants"]["base"]["fit"]["epochs"] = 0
    raw["targets"]["fp32"]["opset"] = 17
    said = errors(raw)
    assert [line.split(":")[0] for line in said] == ["seed", "variants.base.fit.epochs", "targets.fp32.opset"]


def test_a_misspelling_is_answered_with_what_was_meant() -> None:
    raw = copy.deepcopy(SHIPPED)
    raw["variants"]["pruned"]["ration"] = raw["variants"]["pruned"].pop("ratio")
    raw["variants"]["lora"]["pass"] = "loras"
    del raw["source"]["kind"]
    raw["validate"]["min_row"] = raw["validate"].pop("min_rows")
    said = errors(raw)
    assert "variants.pruned.ration: unknown key; did you mean ratio?" in said
    assert [line for line in said if line.startswith("validate")] == [
        "validate.min_row: unknown key; did you mean min_rows?"
    ]
    assert (
        "variants.lora.pass: must be one of 'train', 'pretrain', 'lora', 'distill', 'prune', 'qat', got 'loras'" in said
    )
    assert "source.kind: is missing; it says of which kind this is" in said


def test_the_tree_of_variants_is_checked() -> None:
    raw = copy.deepcopy(SHIPPED)
    raw["variants"]["lora"]["from"] = "bsae"
    raw["variants"]["pruned"]["from"] = "compact"
    raw["variants"]["compact"]["from"] = "pruned"
    raw["variants"]["distilled"]["from"] = "init"
    said = "\n".join(errors(raw))
    assert "variants.lora.from: no variant is called 'bsae'; did you mean base? it can be one of: init, base" in said
    assert "variants.pruned.from: the chain of parents comes back to" in said
    assert "variants.distilled.pass: distill needs a trained parent" in said


@pytest.mark.hardening("F31", "names of variants")
@pytest.mark.parametrize("name", ["8", "Base", "a-b", "a.b", "", "x" * 80, "../x", 8])
def test_names_that_dvc_would_drop_or_split_are_refused(name: Any) -> None:
    raw = copy.deepcopy(SHIPPED)
    raw["variants"][name] = raw["variants"]["base"]
    assert any("variants" in line for line in errors(raw))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"family": "lenet", "widths": [6], "hidden": [84]}, "init.model.widths: "),
        (
            {"family": "resnet", "stem": "cifar", "widths": [8], "blocks": [1, 1], "dropout": 0.0},
            "an entry a stage each",
        ),
        (
            {"family": "resnet", "stem": "cifar", "widths": [8], "blocks": [2], "inner_widths": [[8]], "dropout": 0.0},
            "an entry a block",
        ),
        ({"family": "transformers_image", "architecture": "resnet"}, "either a checkpoint, or an architecture"),
        (
            {"family": "transformers_image", "architecture": "resnet", "config": {}, "checkpoint": "x"},
            "either a checkpoint, or an architecture",
        ),
        (
            {"family": "transformers_image", "architecture": "resnet", "config": {}, "revision": "a" * 40},
            "revision belongs to a checkpoint",
        ),
        ({"family": "transformers_image", "checkpoint": "x", "revision": "main"}, "init.model.revision: "),
        ({"family": "vit"}, "init.model.patch_size: is missing"),
    ],
)
def test_a_model_that_cannot_be_is_refused(model: dict[str, Any], said: str) -> None:
    assert said in "\n".join(errors({**SHIPPED, "init": {"model": model}}))


def test_a_family_must_fit_the_images_and_a_student_has_no_checkpoint() -> None:
    raw = copy.deepcopy(SHIPPED)
    raw["task"]["shape"] = [3, 3]
    raw["init"]["model"] = {"family": "lenet", "widths": [6, 16], "hidden": [84]}
    raw["variants"]["distilled"]["model"] = {"family": "transformers_image", "checkpoint": "x"}
    assert errors(raw) == [
        "variants.distilled.model.checkpoint: only init reads a checkpoint; name it in init.model",
        "init.model: lenet halves the image twice and needs 4 pixels a side, task.shape has [3, 3]; take mlp",
    ]


def test_what_is_measured_must_be_enough_to_decide_on() -> None:
    said = errors({**SHIPPED, "benchmark": {**SHIPPED["benchmark"], "batch_sizes": [8], "max_rounds": 39}})
    assert any(line.startswith("benchmark.max_rounds: 39 is less than benchmark.rounds, 40") for line in said)
    assert any(line.startswith("policy.batch_size: 1 is not measured") for line in said)
    bounds = {**SHIPPED["policy"]["bounds"], "batches": [{"batch_size": 7, "latency_ms": 1.0}]}
    said = errors({**SHIPPED, "policy": {**SHIPPED["policy"], "bounds": bounds}})
    assert any(line.startswith("policy.bounds.batches.0.batch_size: 7 is not measured") for line in said)


def test_export_is_not_a_target() -> None:
    raw = copy.deepcopy(SHIPPED)
    raw["targets"]["export"] = raw["targets"]["fp32"]
    assert any("'export' names the folder" in line for line in errors(raw))


def test_init_is_not_a_variant() -> None:
    raw = copy.deepcopy(SHIPPED)
    raw["variants"]["init"] = raw["variants"]["base"]
    assert any("'init' names the root" in line for line in errors(raw))


@pytest.mark.parametrize("path", ["../x.csv", "~/x.csv", "a\nb", ""])
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    said = errors({**SHIPPED, "source": {"kind": "csv", "path": path, "delimiter": ","}})
    assert any(line.startswith("source.path") for line in said)


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2\n", "x: !!python/object/apply:os.system ['true']\n", "a: [1\n", "- 1\n", "", "a: &a [*a]\n"],
    ids=["duplicate key", "tag", "not yaml", "list", "empty", "alias loop"],
)
def test_yaml_that_is_not_plain_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError):
        load(tmp_path / "params.yaml")


def test_a_huge_file_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("# " + "x" * 1_100_000)
    with pytest.raises(ParamsError, match="larger than 1 MB"):
        load(tmp_path / "params.yaml")
