"""Every member of every family passes the same tests, on tiny real data: a new one needs no test of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from components import assemble, params
from components.data import Spec, read_rows
from components.families import FAMILIES
from components.fit import answers
from components.hashing import sha256_file, sha256_tree
from components.make import multiply_adds
from components.model import Context, Model
from components.passes import PASSES
from components.sources import SOURCES
from components.targets import TARGETS
from components.tasks import TASKS

# The smallest useful member of every family: a new family adds its line here and passes everything below.
TINY: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [32, 16], "dropout": 0.1},
    "vit": {
        "patch_size": 4,
        "hidden_size": 16,
        "layers": 2,
        "heads": 2,
        "head_dim": 8,
        "intermediate_size": 32,
        "dropout": 0.1,
    },
}
FIT = {
    "epochs": 2,
    "batch_size": 32,
    "optimizer": {"kind": "adamw", "lr": 0.003, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_share": 0.1},
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "patience": 5,
}
PASS: dict[str, dict[str, Any]] = {
    "train": {},
    "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0},
    "distill": {"temperature": 2.0, "weight": 0.5, "model": {"family": "mlp", "hidden": [8], "dropout": 0.0}},
    "prune": {"ratio": 0.5},
}


def union(annotated: Any) -> tuple[Any, ...]:
    """Members of a tagged union of params."""
    inner = get_args(annotated)[0] if hasattr(annotated, "__metadata__") else annotated
    return get_args(inner) or (inner,)


def tags(annotated: Any, field: str) -> set[str]:
    return {get_args(member.model_fields[field].annotation)[0] for member in union(annotated)}


@pytest.mark.parametrize(
    ("annotated", "field", "members", "folder"),
    [
        (params.Source, "kind", SOURCES, "sources"),
        (params.Task, "kind", TASKS, "tasks"),
        (params.Family, "family", FAMILIES, "families"),
        (params.Variant, "kind", PASSES, "passes"),
        (params.Target, "kind", TARGETS, "targets"),
    ],
)
def test_one_word_everywhere(annotated: Any, field: str, members: Mapping[str, Any], folder: str, root: Path) -> None:
    """Every kind in params has its member, its file and the reverse; its class has the same name."""
    assert tags(annotated, field) == set(members)
    files = {path.stem for path in (root / "components" / folder).glob("*.py")} - {"__init__"}
    assert files == set(members)
    classes = {member.__name__.lower() for member in union(annotated)}
    assert classes == {name.replace("_", "") for name in members}


def tiny(family: str, spec: Spec) -> Model:
    torch.manual_seed(0)
    made = params.check_family({"family": family, **TINY[family]})
    return assemble.create(made, spec)


def context(prepared: Path, spec: Spec, out: Path, parent_sha256: str = "") -> Context:
    out.mkdir(parents=True, exist_ok=True)
    return Context(
        rows=lambda split: read_rows(prepared, split, spec).head(96),
        create=lambda made: assemble.create(made, spec),
        seed=0,
        out=out,
        parent_sha256=parent_sha256,
        log=lambda metrics, step: None,
    )


@pytest.mark.parametrize("family", FAMILIES)
class TestFamily:
    def test_logits_have_a_row_a_row_and_a_column_a_class(self, family: str, prepared: Path, spec: Spec) -> None:
        rows = read_rows(prepared, "validation", spec).head(5)
        assert answers(tiny(family, spec), rows).shape == (5, len(spec.classes))

    def test_a_saved_model_reloads_to_the_same_bits(
        self, family: str, prepared: Path, spec: Spec, tmp_path: Path
    ) -> None:
        model, rows = tiny(family, spec), read_rows(prepared, "validation", spec)
        assemble.save(model, tmp_path / "a")
        again = assemble.load(tmp_path / "a")
        assert torch.equal(answers(model, rows), answers(again, rows))
        assemble.save(again, tmp_path / "b")
        assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
        assert not again.module.training

    def test_nothing_but_safetensors_and_json_is_saved(self, family: str, spec: Spec, tmp_path: Path) -> None:
        assemble.save(tiny(family, spec), tmp_path)
        assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".safetensors", ".json"}

    def test_the_seed_decides_the_weights(self, family: str, spec: Spec) -> None:
        one, two = tiny(family, spec), tiny(family, spec)
        assert all(map(torch.equal, one.module.state_dict().values(), two.module.state_dict().values()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", PASSES)
class TestPass:
    def make(self, kind: str, family: str, prepared: Path, spec: Spec, out: Path) -> tuple[Model, dict[str, float]]:
        wanted = params.check_variant({"from": "base", "pass": kind, "fit": FIT, **PASS[kind]})
        return PASSES[kind](tiny(family, spec), wanted, context(prepared, spec, out))

    def test_it_gives_a_model_that_saves_and_answers(
        self, kind: str, family: str, prepared: Path, spec: Spec, tmp_path: Path
    ) -> None:
        model, figures = self.make(kind, family, prepared, spec, tmp_path / "out")
        rows = read_rows(prepared, "validation", spec)
        assemble.save(model, tmp_path / "out")
        assert torch.equal(answers(assemble.load(tmp_path / "out"), rows), answers(model, rows))
        assert all(isinstance(value, int | float) for value in figures.values())

    def test_it_is_the_same_twice(self, kind: str, family: str, prepared: Path, spec: Spec, tmp_path: Path) -> None:
        for name in "ab":
            model, _ = self.make(kind, family, prepared, spec, tmp_path / name)
            assemble.save(model, tmp_path / name)
        assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_is_dense_smaller_and_reloads_by_plain_library_calls(
    family: str, prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    wanted = params.check_variant({"from": "base", "pass": "prune", "fit": FIT, "ratio": 0.5})
    before = tiny(family, spec)
    rows = read_rows(prepared, "validation", spec)
    size, work = before.parameters(), multiply_adds(before, rows.head(1))
    after, _ = PASSES["prune"](before, wanted, context(prepared, spec, tmp_path))
    assemble.save(after, tmp_path)
    assert after.parameters() < 0.8 * size
    assert multiply_adds(after, rows.head(1)) < 0.85 * work
    assert all((p != 0).float().mean() > 0.5 for p in after.module.parameters() if p.ndim > 1)

    raw = {name: torch.from_numpy(x) for name, x in rows.inputs.items()}
    pixels = after.task.preprocess(raw, spec)["pixel_values"]
    if family == "vit":
        from transformers import ViTForImageClassification

        plain = ViTForImageClassification.from_pretrained(tmp_path).eval()
        logits = plain(pixel_values=pixels).logits
    else:
        from safetensors.torch import load_file

        weights = list(load_file(tmp_path / "model.safetensors").values())
        logits = pixels.flatten(1)
        for i in range(0, len(weights), 2):
            bias, weight = sorted(weights[i : i + 2], key=lambda x: x.ndim)
            logits = logits @ weight.T + bias
            logits = torch.nn.functional.gelu(logits) if i + 2 < len(weights) else logits
    torch.testing.assert_close(logits, answers(after, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_belongs_to_its_base(family: str, prepared: Path, spec: Spec, tmp_path: Path) -> None:
    from components.errors import TemperError
    from components.passes import lora

    base = tmp_path / "base"
    assemble.save(tiny(family, spec), base)
    sha256 = sha256_file(base / "model.safetensors")
    wanted = params.check_variant({"from": "base", "pass": "lora", "fit": FIT, **PASS["lora"]})
    merged, figures = lora.run(assemble.load(base), wanted, context(prepared, spec, tmp_path / "out", sha256))
    assert 0 < figures["trained_share"] < 0.5
    assert set(path.suffix for path in (tmp_path / "out" / "adapter").iterdir()) == {".safetensors", ".json"}

    rows = read_rows(prepared, "validation", spec)
    attached = lora.attach(assemble.load(base), tmp_path / "out" / "adapter", sha256)
    torch.testing.assert_close(answers(attached, rows), answers(merged, rows), rtol=1e-4, atol=1e-4)
    with pytest.raises(TemperError, match="belongs to weights with sha256"):
        lora.attach(assemble.load(base), tmp_path / "out" / "adapter", "0" * 64)
