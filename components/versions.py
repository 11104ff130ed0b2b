"""Writing to the registry: builds become registered versions, aliases and tags are set. With `components.tracking`,
the only files that import mlflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from components import record, registry
from components.tracking import Experiment, client, lock, plainly

EVIDENCE = "evidence"  # folder of the run that registered a version


def register(
    name: str,
    loader: Path,
    parts: Mapping[str, Path],
    spec: Mapping[str, Any],
    tags: dict[str, str],
    matrix: Path,
    seal: Callable[[Path], tuple[dict[str, str], list[Path]]],
) -> int:
    """Store a build as a pyfunc model from code (no pickle) and register it; returns the version's number.

    `parts` are the files that ship: model, build, card, licence, of text the tokenizer. `matrix` is kept with the run,
    not in the model, as it shows rows of the test data; the version's tag `matrix` says where. `seal` looks at a copy
    of what was stored, and adds tags and files. The version is made with its tags in one step, so one with a digest is
    complete.
    """
    tracker = client()
    import mlflow
    import numpy as np
    import pandas as pd
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    packages = ["mlflow", "numpy", "onnxruntime"]
    if spec["vocabulary"]:
        names = ["text", "pair"] if "token_type_ids" in spec["inputs"] else ["text"]
        takes, packages = Schema([ColSpec("string", name) for name in names]), [*packages, "tokenizers"]
        example: Any = pd.DataFrame({name: ["a text"] for name in names})
    else:
        image = np.dtype("float32")
        takes, example = Schema([TensorSpec(image, (-1, *spec["shape"]))]), np.zeros((1, *spec["shape"]), image)
    signature = ModelSignature(
        takes,
        Schema([TensorSpec(np.dtype("str"), (-1,))]),
        ParamSchema([ParamSpec("output", "string", "label")]),
    )
    # MLflow would refuse float64 and integer arrays, and lists of texts, before the loader sees them; the loader checks
    # more, and converts.
    signature._is_signature_from_type_hint = True
    with lock(), plainly():
        experiment = Experiment(tracker, name)
        identity = f"{tags['pipeline_run']}/promote/{tags['digest']}"  # by which one that broke off is taken up
        fixed = {"kind": "promote", **{key: tags[key] for key in ("pipeline_run", "cell", "digest")}}
        fixed["temper.record"] = identity
        if parent := experiment.find("temper.record", tags["pipeline_run"]):
            fixed["mlflow.parentRunId"] = parent
        taken = experiment.find("temper.record", identity)
        for left in experiment.dead("promote"):
            if left != taken:
                experiment.end(left, "KILLED", None)
        run_id = taken or experiment.create("promote", {**fixed, **record.process()}, None)
        tracker.log_artifact(run_id, str(matrix), EVIDENCE)
        tags = {**tags, "matrix": f"runs:/{run_id}/{EVIDENCE}/{matrix.name}"}
        mlflow.set_experiment(experiment_id=experiment.id)
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name=name,
                python_model=str(loader),
                artifacts={part: str(path) for part, path in parts.items()},
                signature=signature,
                input_example=example,
                pip_requirements=[_pinned(package) for package in packages],
                metadata={"digest": tags["digest"], "cell": tags["cell"], "classes": spec["classes"]},
            )
        with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
            (stored := Path(scratch, name)).mkdir()
            sealed, added = seal(Path(mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=str(stored))))
            for path in added:
                tracker.log_model_artifact(logged.model_id, str(path))
        tags = {**tags, **sealed}
        try:
            tracker.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        about = parts["card"].read_text("utf-8")[:5000]
        made = tracker.create_model_version(
            name, logged.model_uri, run_id, tags, description=about, model_id=logged.model_id
        )
        return int(made.version)


def add(name: str, number: int, files: list[Path], tags: Mapping[str, str]) -> None:
    """Put files beside those of a registered version, and tag it."""
    tracker = client()
    with plainly():
        model = str(tracker.get_model_version(name, str(number)).source).rpartition("/")[2]
        for path in files:
            tracker.log_model_artifact(model, str(path))
        for tag, value in tags.items():
            tracker.set_model_version_tag(name, str(number), tag, value)


def set_aliases(name: str, champion: int, previous: int | None, mark: str) -> None:
    """Make a version the champion, and tag the model with the journal's line that said so, last of all.

    In an order in which at no time `previous` is the champion; a version that becomes it is no challenger any more.
    """
    tracker, found = client(), registry.registered(name)
    with plainly():
        if "previous" in found.aliases and (previous is None or found.aliases["previous"] == champion):
            tracker.delete_registered_model_alias(name, "previous")
        if found.aliases.get("champion") != champion:
            tracker.set_registered_model_alias(name, "champion", str(champion))
        if previous is not None and found.aliases.get("previous") != previous:
            tracker.set_registered_model_alias(name, "previous", str(previous))
        if found.aliases.get("challenger") == champion:
            tracker.delete_registered_model_alias(name, "challenger")
        tracker.set_registered_model_tag(name, registry.JOURNALLED, mark)


def challenge(name: str, number: int) -> None:
    """Give a version that was proved the alias `challenger`."""
    tracker = client()
    with plainly():
        tracker.set_registered_model_alias(name, "challenger", str(number))


def tag_version(name: str, number: int, tags: Mapping[str, str]) -> None:
    tracker = client()
    with plainly():
        for key, value in tags.items():
            tracker.set_model_version_tag(name, str(number), key, value)


def keep(name: str, number: int, folder: Path) -> str:
    """Keep a folder with the run that registered a version; returns its address."""
    version = registry.version(name, number)
    run_id = (version.tags.get("matrix", "") if version else "").removeprefix("runs:/").partition("/")[0]
    tracker = client()
    with plainly():
        tracker.log_artifacts(run_id, str(folder), f"{EVIDENCE}/{folder.name}")
    return f"runs:/{run_id}/{EVIDENCE}/{folder.name}"


def journal(name: str, tags: Mapping[str, str], about: str) -> int:
    """Add a version without files to the registered model `name` of a server; returns the number it got.

    A version must point into a run: that is one of kind `journal`, in an experiment of the same name.
    """
    from mlflow.exceptions import MlflowException

    tracker = client()
    with plainly():
        for make in (tracker.create_registered_model, partial(Experiment, tracker)):
            try:
                make(name)
            except MlflowException as error:  # of two that make it at once, the later
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        experiment = Experiment(tracker, name)
        run_id = experiment.find("kind", "journal") or experiment.create("journal", {"kind": "journal"}, None)
        source = f"{tracker.get_run(run_id).info.artifact_uri}/journal"
        made = tracker.create_model_version(name, source, run_id, dict(tags), description=about)
        return int(made.version)


def download(source: str, to: Path) -> Path:
    client()
    import mlflow

    with plainly():
        return Path(mlflow.artifacts.download_artifacts(source, dst_path=str(to)))


def _pinned(package: str) -> str:
    try:
        installed = version(package)
    except PackageNotFoundError:  # onnxruntime-gpu stands in for onnxruntime where there is a GPU
        installed = version(f"{package}-gpu")
    return f"{package}=={installed.partition('+')[0]}"
