"""Architectures of transformers by config, and checkpoints: adopted, or refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from components import assemble, build, checkpoint, graph, init, params, session
from components.data import Spec, read_rows
from components.errors import DataError, ParamsError, TemperError, TrainingError
from components.families import transformers_image
from components.fit import answers

VIT = {
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SWIN = {"patch_size": 1, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
EFFICIENT = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.25,
    "hidden_dim": 320,
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "kernel_sizes": [3, 3],
    "strides": [1, 2],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 2],
    "depthwise_padding": [],
}
# The smallest of each architecture.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "beit": VIT,
    "convnext": {**STAGES, "patch_size": 2, "num_stages": 2},
    "deit": VIT,
    "dinov2": {key: value for key, value in VIT.items() if key != "intermediate_size"},
    "efficientnet": EFFICIENT,
    "mobilenet_v1": {"depth_multiplier": 0.1, "min_depth": 8},
    "mobilenet_v2": {"depth_multiplier": 0.1},
    "poolformer": {**STAGES, "patch_sizes": [3, 3], "strides": [2, 2], "padding": [1, 1], "num_encoder_blocks": 2},
    "regnet": {**STAGES, "embedding_size": 8, "groups_width": 8},
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "bottleneck"},
    "swin": SWIN,
    "vit": VIT,
}


def made(architecture: str, spec: Spec, **config: Any) -> Any:
    torch.manual_seed(0)
    section = {"architecture": architecture, "config": ARCHITECTURES[architecture] | config}
    return assemble.create(params.check_family({"family": "transformers_image", **section}), spec)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_saves_reloads_exports_and_quantizes(
    architecture: str, prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageClassification

    model, rows = made(architecture, spec), read_rows(prepared, "calibration", spec)
    assemble.save(model, tmp_path / "model")
    said = answers(model, rows)
    assert torch.equal(answers(assemble.load(tmp_path / "model"), rows), said)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    pixels = model.task.preprocess({"image": torch.from_numpy(rows.inputs["image"])}, spec)["pixel_values"]
    with torch.no_grad():
        assert torch.equal(plain(pixel_values=pixels).logits, said)
        assert model.family.features(model.module.eval(), {"pixel_values": pixels}).ndim == 2
    assert set(model.family.lora_targets(model.module)) <= {name for name, _ in model.module.named_modules()}

    exported, quantized = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    build.export(model, rows.inputs, exported)
    graph.quantize(exported, quantized, rows.inputs, "minmax", per_channel=True, signed=False)
    for file, most in ((exported, 1e-4), (quantized, 0.5)):
        opened = session.OnnxSession(file.read_bytes(), session.ONNX_SESSION, 1, spec, str(file))
        assert np.abs(opened.run(rows.inputs) - said.numpy()).max() < most
    assert graph.kernels(quantized, 1)["integer_nodes"]


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"architecture": "bert", "config": {}}, "must be one of beit, "),
        ({"architecture": "resnet", "config": {"hidden_size": [8]}}, "unknown key; resnet has: depths, "),
        ({"architecture": "resnet", "config": {"num_channels": 3}}, "comes from the data"),
        ({"architecture": "resnet", "config": {"layer_type": "odd"}}, "refuses it"),
        ({"architecture": "resnet", "config": {"depths": "many"}}, "refuses it"),
        ({"architecture": "vit", "config": VIT | {"patch_size": 16}}, "cannot"),
        ({"checkpoint": "somewhere"}, "read by init alone"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(section: dict[str, Any], reason: str, spec: Spec) -> None:
    with pytest.raises(ParamsError, match=reason):
        assemble.create(params.check_family({"family": "transformers_image", **section}), spec)


def test_what_pruning_leaves_is_built_again_or_refused(spec: Spec) -> None:
    from components.passes import prune

    wide = Spec(**{**spec.model_dump(), "shape": [32, 32]})
    halved = params.Prune.model_construct(ratio=0.5, round_to=1)
    cut = prune._cut(made("resnet", wide, hidden_sizes=[32, 64]), halved, {"image": torch.zeros(2, 32, 32)})
    again = transformers_image.build(cut.params, wide)  # type: ignore[arg-type]
    assert {k: x.shape for k, x in again.state_dict().items()} == {
        k: x.shape for k, x in cut.module.state_dict().items()
    }
    assert cut.params.config["hidden_sizes"] == [16, 32]  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match="cannot say"):  # a quarter of 64 is kept whole, 16 is not
        odd = params.Prune.model_construct(ratio=0.4, round_to=1)
        prune._cut(made("resnet", wide, hidden_sizes=[32, 64]), odd, {"image": torch.zeros(2, 32, 32)})
    with pytest.raises(TrainingError, match="swin"):
        prune._cut(made("swin", spec), halved, {"image": torch.zeros(2, 8, 8)})


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNet that knows three other classes, as save_pretrained() leaves it."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("pretrained")
    classes = {0: "cat", 1: "dog", 2: "cow"}
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[16], depths=[2], layer_type="basic", id2label=classes
    )
    ResNetForImageClassification(config).half().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(pretrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pretrained, tmp_path / "checkpoint"))


def section(folder: Path | str) -> dict[str, Any]:
    return {"family": "transformers_image", "checkpoint": str(folder)}


def begin(folder: Path, prepared: Path, out: Path) -> dict[str, float]:
    """observe and init, as the pipeline runs them."""
    identity, _ = checkpoint.observe(section(folder), None)
    out.mkdir(parents=True, exist_ok=True)
    (out.parent / "checkpoint.json").write_text(json.dumps(identity))
    wanted = params.Init.model_validate({"model": section(folder)})
    return init.run(wanted, 0, 1, spec=prepared / "spec.json", checkpoint=out.parent / "checkpoint.json", out=out)


def test_a_checkpoint_keeps_its_weights_under_a_new_head_and_is_needed_no_more(
    folder: Path, prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    theirs = load_file(folder / "model.safetensors")
    begin(folder, prepared, tmp_path / "init")
    shutil.rmtree(folder)
    model = assemble.load(tmp_path / "init")
    ours = model.module.state_dict()
    assert all(x.dtype == torch.float32 for x in ours.values() if x.is_floating_point())
    assert all(torch.equal(ours[k], x.to(ours[k].dtype)) for k, x in theirs.items() if not k.startswith("classifier"))
    assert ours["classifier.1.weight"].shape == (10, 16)
    assert model.module.config.id2label == dict(enumerate(spec.classes))  # type: ignore[union-attr]
    again = assemble.create(model.params, spec)  # what other stages may do: the like of it, without the checkpoint
    assert {k: x.shape for k, x in again.module.state_dict().items()} == {k: x.shape for k, x in ours.items()}
    assert str(tmp_path) not in "".join(path.read_text("utf-8") for path in (tmp_path / "init").glob("*.json"))


def test_the_head_stays_if_it_knows_our_classes(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    model = made("resnet", spec)
    model.module.save_pretrained(tmp_path / "ours")
    begin(tmp_path / "ours", prepared, tmp_path / "init")
    rows = read_rows(prepared, "validation", spec)
    assert torch.equal(answers(assemble.load(tmp_path / "init"), rows), answers(model, rows))


def test_a_head_for_as_many_other_classes_goes(prepared: Path, spec: Spec, tmp_path: Path) -> None:
    model = made("resnet", Spec(**{**spec.model_dump(), "classes": [f"other {i}" for i in range(10)]}))
    torch.nn.init.ones_(model.module.classifier[1].weight)
    model.module.save_pretrained(tmp_path / "others")
    begin(tmp_path / "others", prepared, tmp_path / "init")
    theirs, ours = model.module.state_dict(), assemble.load(tmp_path / "init").module.state_dict()
    changed = {key for key, x in ours.items() if not torch.equal(x, theirs[key])}
    assert "classifier.1.weight" in changed
    assert all(key.startswith("classifier") for key in changed)


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights[next(key for key in weights if key.endswith("convolution.weight"))]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    next(x for x in weights.values() if x.ndim == 4).fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BOMB = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"
AUTO_MAP = {"AutoConfig": "custom.Config", "AutoModelForImageClassification": "custom.Model"}


@pytest.mark.hardening("G35", "checkpoints with code, pickles, auto_map, damage")
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "custom.py").write_text(BOMB), "brings code .custom.py"),
        (edit(auto_map=AUTO_MAP), "has auto_map"),
        (edit(attn_implementation="someone/kernels"), "has attn_implementation"),
        (edit(text_config={"quantization_config": {"quant_method": "gptq"}}), "has quantization_config"),
        (only_pickle, "convert them to safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no \*.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must be a mapping"),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": AUTO_MAP})),
            "tokenizer_config.json has auto_map",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter"),
        (truncated, "model.safetensors is damaged"),
        (edit(model_type="bert"), "is a bert, which classifies no images"),
        (edit(num_channels=3), "takes images with 3 channels"),
        (edit(hidden_sizes=[24]), "not those of its config"),
        (edit(depths=[3]), "not those of its config"),
        (other_weights, "not those of its config"),
        (not_finite, "not finite"),
    ],
)
def test_a_checkpoint_is_refused_and_nothing_of_it_runs(
    harm: Callable[[Path], Any], reason: str, folder: Path, prepared: Path, tmp_path: Path
) -> None:
    harm(folder)
    with pytest.raises(TemperError, match=reason):
        begin(folder, prepared, tmp_path / "init")
    assert not (folder / "ran").exists()
    assert not list((tmp_path / "init").iterdir())


def test_images_of_another_size_than_a_transformer_was_trained_on_are_refused(
    prepared: Path, spec: Spec, tmp_path: Path
) -> None:
    larger = Spec(**{**spec.model_dump(), "shape": [16, 16]})
    made("vit", larger).module.save_pretrained(tmp_path / "larger")
    with pytest.raises(DataError, match="resize the images"):
        begin(tmp_path / "larger", prepared, tmp_path / "init")


def test_an_index_may_not_name_files_elsewhere(folder: Path, prepared: Path, tmp_path: Path) -> None:
    index = {"weight_map": {"classifier.1.weight": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="which is not there"):
        begin(folder, prepared, tmp_path / "init")


def test_a_checkpoint_that_changes_after_it_was_observed_is_refused(folder: Path) -> None:
    identity, _ = checkpoint.observe(section(folder), None)
    edit(hidden_act="gelu")(folder)
    with pytest.raises(DataError, match="run again"):
        checkpoint.fetch(identity or {})


def test_what_is_observed_changes_with_weights_and_config_only(folder: Path) -> None:
    identity, stat = checkpoint.observe(section(folder), None)
    (folder / "README.md").write_text("new")
    assert checkpoint.observe(section(folder), json.loads(json.dumps(stat))) == (identity, stat)
    edit(hidden_act="gelu")(folder)
    assert checkpoint.observe(section(folder), stat)[0] != identity
    assert checkpoint.observe({"family": "mlp", "hidden": [8]}, None) == (None, {})


def test_an_absent_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        checkpoint.observe(section(tmp_path / "nowhere"), None)


# --- the hub, without a network -------------------------------------------------------------------


def test_a_fault_of_the_network_is_an_error_and_a_pinned_revision_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"the hub cannot be reached: .*refused"):
        checkpoint.observe(section("someone/model"), None)
    assert constants.is_offline_mode()
    pinned = {**section("someone/model"), "revision": "a" * 40}
    assert checkpoint.observe(pinned, None)[0] == {"checkpoint": "someone/model", "commit": "a" * 40}


def test_a_hub_checkpoint_is_fetched_at_its_commit_once_its_names_are_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    names, asked = ["config.json", "model.safetensors"], {}

    def download(name: str, **options: Any) -> str:
        asked.update(options)
        return str(folder)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(sha="c" * 40))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: names)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    identity, _ = checkpoint.observe(section("someone/model"), None)
    assert identity == {"checkpoint": "someone/model", "commit": "c" * 40}
    assert checkpoint.fetch(identity) == folder
    assert asked["revision"] == "c" * 40
    assert not any(Path(name).match(wanted) for name in ("x.py", "x.bin") for wanted in asked["allow_patterns"])
    names.append("custom.py")
    asked.clear()
    with pytest.raises(DataError, match="brings code"):
        checkpoint.fetch(identity)
    assert not asked  # nothing was fetched
