"""Every member of every family passes the same tests, on tiny real data: a new one needs no test of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter

from components import assemble, build, graph, host, make, params, runtime
from components.data import Spec, read_rows
from components.errors import DataError, NotMeasured, TrainingError
from components.families import FAMILIES
from components.fit import answers
from components.hashing import sha256_file, sha256_tree
from components.make import multiply_adds
from components.model import Context, Model
from components.parity import check_build
from components.passes import PASSES
from components.runtimes import RUNTIMES
from components.schemas import SCHEMAS
from components.session import BuildError
from components.sources import SOURCES
from components.targets import TARGETS
from components.tasks import TASKS

# What the tests need of every member: a new one adds its line here and passes everything below.

# The smallest useful model of every family.
TINY: dict[str, dict[str, Any]] = {
    "perceptron": {},
    "mlp": {"hidden": [32, 16], "dropout": 0.1},
    "lenet": {"widths": [6, 16], "hidden": [32, 16]},
    "alexnet": {"widths": [8, 16, 16, 16, 16], "hidden": [32, 32], "dropout": 0.1},
    "vgg": {"stages": [[8, 8], [16]], "hidden": [32], "dropout": 0.1},
    "resnet": {"stem": "cifar", "widths": [8, 16], "blocks": [1, 2], "dropout": 0.1},
    "vit": {
        "patch_size": 4,
        "hidden_size": 16,
        "layers": 2,
        "heads": 2,
        "head_dim": 8,
        "intermediate_size": 32,
        "dropout": 0.1,
    },
    "transformers_image": {
        "architecture": "resnet",
        "config": {"embedding_size": 8, "hidden_sizes": [16], "depths": [2], "layer_type": "basic"},
    },
    "bert": {
        "architecture": "bert",
        "config": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "initializer_range": 0.2,
        },
    },
}


def reload_perceptron(folder: Path, pixels: torch.Tensor, made: Any) -> torch.Tensor:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    return pixels.flatten(1) @ weights["1.weight"].T + weights["1.bias"]


def reload_mlp(folder: Path, pixels: torch.Tensor, made: Any) -> torch.Tensor:
    from safetensors.torch import load_file

    weights, logits = list(load_file(folder / "model.safetensors").values()), pixels.flatten(1)
    for i in range(len(made.hidden) + 1):
        bias, weight = sorted(weights[2 * i : 2 * i + 2], key=lambda x: x.ndim)
        logits = logits @ weight.T + bias
        logits = torch.nn.functional.gelu(logits) if i < len(made.hidden) else logits
    return logits


def reload_layers(
    folder: Path, pixels: torch.Tensor, steps: str, activation: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`steps`, a letter each: c a convolution that keeps the size, n a normalisation, f a linear layer, l the last."""
    from safetensors.torch import load_file
    from torch.nn.functional import avg_pool2d, batch_norm, conv2d, linear, max_pool2d

    weights, x = load_file(folder / "model.safetensors"), pixels
    numbers = iter(sorted({int(name.partition(".")[0]) for name in weights}))
    for step in steps:
        at = "" if step in "ampo" else f"{next(numbers)}."
        kernel, bias = weights.get(f"{at}weight", torch.empty(0)), weights.get(f"{at}bias")
        if step == "c":
            x = conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)
        elif step == "n":
            x = batch_norm(x, weights[f"{at}running_mean"], weights[f"{at}running_var"], kernel, bias)
        elif step in "fl":
            x = linear(x.flatten(1), kernel, bias)
        x = activation(x) if step in "af" else x
        x = avg_pool2d(x, 2) if step == "m" else max_pool2d(x, 2) if step == "p" else x
        x = max_pool2d(x, 3, 2, padding=1) if step == "o" else x
    return x


def reload_lenet(folder: Path, pixels: torch.Tensor, made: Any) -> torch.Tensor:
    return reload_layers(folder, pixels, "camcamffl", torch.tanh)


def reload_alexnet(folder: Path, pixels: torch.Tensor, made: Any) -> torch.Tensor:
    return reload_layers(folder, pixels, "caocaocacacaoffl", torch.relu)


def reload_vgg(folder: Path, pixels: torch.Tensor, made: Any) -> torch.Tensor:
    return reload_layers(folder, pixels, "cnacnapcnapfl", torch.relu)


def reload_resnet(folder: Path, pixels: torch.Tensor, made: Any) -> torch.Tensor:
    from safetensors.torch import load_file
    from torch.nn.functional import batch_norm, conv2d, linear, relu

    weights = load_file(folder / "model.safetensors")

    def convolution(x: torch.Tensor, at: str, number: int, stride: int = 1) -> torch.Tensor:
        kernel, norm = weights[f"{at}.{number}.weight"], f"{at}.{number + 1}."
        x = conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var = weights[f"{norm}running_mean"], weights[f"{norm}running_var"]
        return batch_norm(x, mean, var, weights[f"{norm}weight"], weights[f"{norm}bias"])

    x = relu(convolution(pixels, "stem", 0))
    for stage, blocks in enumerate(made.blocks):
        for block in range(blocks):
            at, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            inside = convolution(relu(convolution(x, f"{at}.inside", 0, stride)), f"{at}.inside", 3)
            x = relu(inside + (x if stride == 1 else convolution(x, f"{at}.shortcut", 0, stride)))
    return linear(x.mean((2, 3)), weights["classifier.weight"], weights["classifier.bias"])


def reload_vit(folder: Path, pixels: torch.Tensor, made: Any) -> torch.Tensor:
    from transformers import ViTForImageClassification

    logits: torch.Tensor = ViTForImageClassification.from_pretrained(folder).eval()(pixel_values=pixels).logits
    return logits


def reload_transformers_image(folder: Path, pixels: torch.Tensor, made: Any) -> torch.Tensor:
    from transformers import AutoModelForImageClassification

    logits: torch.Tensor = AutoModelForImageClassification.from_pretrained(folder).eval()(pixel_values=pixels).logits
    return logits


# Logits of a saved model by plain library calls, without Temper: (folder, preprocessed pixels, params) -> logits.
RELOAD: dict[str, Callable[[Path, torch.Tensor, Any], torch.Tensor]] = {
    "perceptron": reload_perceptron,
    "mlp": reload_mlp,
    "lenet": reload_lenet,
    "alexnet": reload_alexnet,
    "vgg": reload_vgg,
    "resnet": reload_resnet,
    "vit": reload_vit,
    "transformers_image": reload_transformers_image,
}
FEATURELESS = {"perceptron"}  # nothing before the classifier: neither pruned nor trained by itself
TEXTS = set(params.FAMILIES_OF["text_classification"])
PRUNABLE = sorted(set(FAMILIES) - FEATURELESS - TEXTS)  # of channels; tests of pass prune have the others
FIT = {
    "epochs": 2,
    "batch_size": 32,
    "optimizer": {"kind": "adamw", "lr": 0.003, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_share": 0.1},
    "loss": {"kind": "cross_entropy", "label_smoothing": 0.1},
    "clip_norm": 1.0,
    "patience": 5,
}
PASS: dict[str, dict[str, Any]] = {
    "train": {},
    "pretrain": {
        "method": {
            "kind": "contrastive",
            "views": [{"kind": "crop", "padding": 1}, {"kind": "rotate", "degrees": 10.0}],
            "temperature": 0.5,
            "projection": 8,
        },
        "fit": {key: value for key, value in FIT.items() if key != "loss"},
    },
    "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0},
    "distill": {"temperature": 2.0, "weight": 0.5, "model": {"family": "mlp", "hidden": [8], "dropout": 0.0}},
    "prune": {"ratio": 0.5, "round_to": 4},
    "qat": {"observe_batches": 5},
}
# What a pass is told else for a family of texts.
PASS_TEXTS: dict[str, dict[str, Any]] = {
    "pretrain": {**PASS["pretrain"], "method": {"kind": "masked_language", "ratio": 0.3}},
    "distill": {"temperature": 2.0, "weight": 0.5, "model": {"family": "bert", **TINY["bert"]}},
    "prune": {"heads": 0.5, "feed_forward": 0.5, "hidden": 0.5, "layers": 0.5, "round_to": 1},
}
TARGET: dict[str, dict[str, Any]] = {
    "onnx_fp32": {},
    "onnx_fp16": {},
    "onnx_int8_dynamic": {"per_channel": True, "min_integer_share": 1.0},
    "onnx_int8_static": {"per_channel": True, "calibration": "minmax", "rows": 32, "min_integer_share": 1.0},
    "onnx_cuda": {"precision": "fp16"},
    "tensorrt": {"precision": "fp16", "batch_sizes": [1, 4, 8], "rows": 32},
}
PARITY = params.Parity(
    batch_sizes=[1, 3, 16], rows=48, max_export_difference=1e-3, min_export_agreement=1.0, min_build_agreement=0.8
)


def write_csv(folder: Path, table: pa.Table) -> dict[str, Any]:
    pc.write_csv(table, folder / "data.csv")
    return {"path": str(folder / "data.csv"), "delimiter": ","}


def write_parquet(folder: Path, table: pa.Table) -> dict[str, Any]:
    pq.write_table(table, folder / "data.parquet")
    return {"path": str(folder / "data.parquet")}


def write_jsonl(folder: Path, table: pa.Table) -> dict[str, Any]:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), "utf-8")
    return {"path": str(path)}


def write_npz(folder: Path, table: pa.Table) -> dict[str, Any]:
    path = folder / "data.npz"
    np.savez(path, x=np.ones((len(table), 2, 2), np.uint8), y=np.array(table["label"].to_pylist()))
    return {"path": str(path), "arrays": {"all": {"image": "x", "label": "y"}}, "class_names": None}


def write_image_folder(folder: Path, table: pa.Table) -> dict[str, Any]:
    from PIL import Image

    for label in table["label"].to_pylist():
        (folder / "images" / label).mkdir(parents=True)
        Image.new("L", (2, 2)).save(folder / "images" / label / "0.png")
    return {"path": str(folder / "images"), "max_file_mb": 1.0}


def write_hub(folder: Path, table: pa.Table) -> dict[str, Any]:
    (folder / "hub").mkdir()
    write_parquet(folder / "hub", table)
    return {"dataset": str(folder / "hub"), "config": None, "splits": {"all": "train"}, "revision": None}


# Writes a table as a data set of this kind, over the one before; returns its section of params.yaml, without kind.
SOURCE: dict[str, Callable[[Path, pa.Table], dict[str, Any]]] = {
    "embedded": lambda folder, table: {"dataset": "digits"},
    "csv": write_csv,
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "npz": write_npz,
    "image_folder": write_image_folder,
    "hub": write_hub,
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
        (params.Task, "kind", SCHEMAS, "schemas"),
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


@pytest.fixture
def prepared(request: pytest.FixtureRequest, prepared_images: Path, prepared_texts: Path) -> Path:
    """Data for the family that a test is about."""
    asked = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return prepared_texts if asked.get("family", asked.get("exported")) in TEXTS else prepared_images


@pytest.fixture
def spec(prepared: Path) -> Spec:
    return Spec.read(prepared)


def a_pass(kind: str, family: str) -> Any:
    told = PASS_TEXTS.get(kind, PASS[kind]) if family in TEXTS else PASS[kind]
    return params.check_variant({"from": "base", "pass": kind, "fit": FIT, **told})


def tiny(family: str, spec: Spec) -> Model:
    torch.manual_seed(0)
    made = params.check_family({"family": family, **TINY[family]})
    return assemble.create(made, spec)


def context(prepared: Path, spec: Spec, out: Path, parent_sha256: str = "") -> Context:
    out.mkdir(parents=True, exist_ok=True)
    return Context(
        rows=lambda split: make.rows_of(prepared, split, spec).head(96),
        create=lambda made: assemble.create(made, spec),
        seed=0,
        out=out,
        parent_sha256=parent_sha256,
        log=lambda metrics, step: None,
    )


class TestFamily:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_logits_have_a_row_a_row_and_a_column_a_class(self, family: str, prepared: Path, spec: Spec) -> None:
        rows = read_rows(prepared, "validation", spec).head(5)
        assert answers(tiny(family, spec), rows).shape == (5, len(spec.classes))

    @pytest.mark.parametrize("family", sorted(set(FAMILIES) - FEATURELESS))
    def test_features_are_what_the_classifier_sees(self, family: str, prepared: Path, spec: Spec) -> None:
        model, rows = tiny(family, spec), read_rows(prepared, "validation", spec).head(5)
        seen: list[torch.Tensor] = []
        classifier = [layer for layer in model.module.modules() if isinstance(layer, torch.nn.Linear)][-1]
        classifier.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        raw = {name: torch.from_numpy(x) for name, x in rows.inputs.items()}
        model.module.eval()
        with torch.no_grad():
            model.logits(raw)
            features = model.family.features(model.module.eval(), model.task.preprocess(raw, spec))
        assert features.shape == (5, classifier.in_features)
        torch.testing.assert_close(features, seen[0])

    @pytest.mark.parametrize("family", FAMILIES)
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

    @pytest.mark.parametrize("family", FAMILIES)
    def test_nothing_but_safetensors_and_json_is_saved(self, family: str, spec: Spec, tmp_path: Path) -> None:
        assemble.save(tiny(family, spec), tmp_path)
        assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".safetensors", ".json"}

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_seed_decides_the_weights(self, family: str, spec: Spec) -> None:
        one, two = tiny(family, spec), tiny(family, spec)
        assert all(map(torch.equal, one.module.state_dict().values(), two.module.state_dict().values()))


@pytest.mark.parametrize("family", sorted(FEATURELESS))
def test_a_family_without_inner_layers_says_so(family: str, prepared: Path, spec: Spec, tmp_path: Path) -> None:
    model = tiny(family, spec)
    for kind in ("prune", "pretrain"):
        wanted = params.check_variant({"from": "base", "pass": kind, "fit": FIT, **PASS[kind]})
        with pytest.raises(TrainingError, match=family):
            PASSES[kind](model, wanted, context(prepared, spec, tmp_path))
    with pytest.raises(TrainingError, match=family):
        model.family.features(model.module, {"pixel_values": torch.zeros(1, 1, 8, 8)})


def test_params_know_which_families_can_be_pretrained() -> None:
    assert set(params.FEATURELESS) == FEATURELESS
    assert set(params.MASKABLE) == {name for name, family in FAMILIES.items() if hasattr(family, "masked")}


def able(kind: str, family: str) -> bool:
    return kind not in ("prune", "pretrain") or family in [*PRUNABLE, *TEXTS]


@pytest.mark.parametrize(("kind", "family"), [(k, f) for k in PASSES for f in FAMILIES if able(k, f)])
class TestPass:
    def make(self, kind: str, family: str, prepared: Path, spec: Spec, out: Path) -> tuple[Model, dict[str, float]]:
        return PASSES[kind](tiny(family, spec), a_pass(kind, family), context(prepared, spec, out))

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


@pytest.mark.parametrize("family", PRUNABLE)
def test_pruned_is_dense_smaller_and_reloads_by_plain_library_calls(
    family: str, prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    wanted = params.check_variant({"from": "base", "pass": "prune", "fit": FIT, **PASS["prune"]})
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
    logits = RELOAD[family](tmp_path, pixels, after.params)
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


@pytest.fixture(scope="module", params=FAMILIES)
def exported(
    request: pytest.FixtureRequest,
    prepared_images: Path,
    prepared_texts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    prepared = prepared_texts if request.param in TEXTS else prepared_images
    spec = Spec.read(prepared)
    out = tmp_path_factory.mktemp("export") / "model.onnx"
    build.export(tiny(request.param, spec), read_rows(prepared, "validation", spec).inputs, out)
    return out


def target(kind: str) -> Any:
    return TypeAdapter(params.Target).validate_python({"kind": kind, **TARGET[kind]})


def make_target(kind: str, exported: Path, prepared: Path, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True)
    return TARGETS[kind].run(exported, target(kind), graph.context(prepared, 2, out.parent / "cache"), out)


ON_DEVICE = [kind for kind in TARGETS if RUNTIMES[TARGETS[kind].RUNTIME].DEVICE]


@pytest.mark.parametrize("kind", [kind for kind in TARGETS if kind not in ON_DEVICE])
class TestTarget:
    def test_it_ships_a_build_that_answers_like_the_export(
        self, kind: str, exported: Path, prepared: Path, spec: Spec, tmp_path: Path
    ) -> None:
        figures = make_target(kind, exported, prepared, tmp_path / "a")
        json.dumps(figures)  # they go into the cell's record
        runtime.ship(target(kind), tmp_path / "a", prepared, figures)
        rows = read_rows(prepared, "test", spec)
        logits = runtime.open_build(tmp_path / "a", 2).run(rows.inputs)
        assert logits.shape == (len(rows), len(spec.classes)) and np.isfinite(logits).all()
        parity = check_build(kind, exported, tmp_path / "a", prepared, PARITY, 2)
        assert parity["agreement"] >= PARITY.min_build_agreement

    def test_it_is_the_same_twice(self, kind: str, exported: Path, prepared: Path, tmp_path: Path) -> None:
        for name in "ab":
            make_target(kind, exported, prepared, tmp_path / name)
        assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")


@pytest.mark.parametrize("kind", ON_DEVICE)
def test_it_is_not_built_without_its_device(kind: str, exported: Path, prepared: Path, tmp_path: Path) -> None:
    if RUNTIMES[TARGETS[kind].RUNTIME].needs(host.describe()) is None:
        pytest.skip("it can be built here; the file under tests/components/targets/ does")
    with pytest.raises((NotMeasured, BuildError)):
        make_target(kind, exported, prepared, tmp_path / "a")


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_says_what_it_needs_of_fields_that_the_stages_watch(name: str, root: Path) -> None:
    """None of its fields is unknown to host.json or to the stages that build, answer and time with it."""
    from tests.contracts.test_layout import BODY

    known, member = host.describe(), RUNTIMES[name]
    missing = member.needs({**known, "gpu": None})
    assert (missing is not None) == member.DEVICE and (missing is None or "; " in missing)
    for verb in ("engine" if member.DEVICE else "build", "evaluate", "benchmark"):
        watched = [
            entry["work/observed/host.json"] for entry in BODY[verb]["params"] if "work/observed/host.json" in entry
        ]
        assert set(member.HOST) <= set(*watched) & set(known), verb
    assert (root / "components" / "runtimes" / f"{name}.py").exists()


ROWS = pa.table({"pixel": [0.5, 1.5, 2.5], "label": ["one", "two", "three"]})
FILES = ["csv", "parquet", "jsonl"]  # a table in one file; tests/components/sources/ has the others' own tests


def observe(section: Mapping[str, Any], earlier: Any = None) -> tuple[Any, Any]:
    """(identity, stats) as components/observe.py asks for them: of plain data, what is kept going through JSON."""
    identity, stat = SOURCES[section["kind"]].observe(SimpleNamespace(**section), earlier)
    return json.loads(json.dumps(identity)), json.loads(json.dumps(stat))


def source(kind: str, folder: Path, rows: pa.Table = ROWS) -> tuple[Any, dict[str, Any]]:
    """(params, the same as plain data) of a data set that is written now."""
    typed: Any = TypeAdapter(params.Source).validate_python({"kind": kind, **SOURCE[kind](folder, rows)})
    return typed, typed.model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize("kind", SOURCES)
class TestSource:
    def test_what_was_observed_stays_while_the_data_do(self, kind: str, tmp_path: Path) -> None:
        typed, section = source(kind, tmp_path)
        identity, stat = observe(section)
        assert observe(section, stat) == observe(section) == (identity, stat)
        assert json.loads(json.dumps(SOURCES[kind].observe(typed, None)[0])) == identity  # as ingest compares it

    def test_read_twice_it_is_the_same_table(self, kind: str, tmp_path: Path) -> None:
        typed, _ = source(kind, tmp_path)
        table = SOURCES[kind].read(typed).read_all()
        assert len(table) > 0 and table.equals(SOURCES[kind].read(typed).read_all(), check_metadata=True)


@pytest.mark.parametrize("kind", FILES)
class TestFile:
    def test_what_was_observed_changes_with_the_bytes_only(self, kind: str, tmp_path: Path) -> None:
        _, section = source(kind, tmp_path)
        identity, stat = observe(section)
        os.utime(section["path"], (1, 1))
        assert observe(section, stat)[0] == identity
        source(kind, tmp_path, ROWS.slice(1))
        assert observe(section, stat)[0] != identity and observe(section, stat)[0] == observe(section)[0]

    def test_its_rows_are_those_of_the_file(self, kind: str, tmp_path: Path) -> None:
        assert SOURCES[kind].read(source(kind, tmp_path)[0]).read_all().to_pydict() == ROWS.to_pydict()

    @pytest.mark.parametrize("left", [0, -3])  # nothing, or all but the end of the last row
    def test_an_empty_and_a_truncated_file_are_refused(self, kind: str, left: int, tmp_path: Path) -> None:
        typed, section = source(kind, tmp_path)
        path = Path(section["path"])
        path.write_bytes(path.read_bytes()[:left])
        with pytest.raises(DataError, match=path.name):
            SOURCES[kind].read(typed).read_all()

    def test_an_absent_file_is_refused(self, kind: str, tmp_path: Path) -> None:
        typed, section = source(kind, tmp_path)
        Path(section["path"]).unlink()
        for call in (lambda: observe(section), lambda: SOURCES[kind].read(typed).read_all()):
            with pytest.raises(DataError, match=Path(section["path"]).name):
                call()
