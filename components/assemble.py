"""Puts a family, a task and weights together to a Model, and reads and writes model folders.

A model folder holds temper.json (family, its params, spec) and what the family's library saves:
safetensors and JSON, never pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from components.data import Spec
from components.families import FAMILIES
from components.model import Adopting, Model
from components.params import Family as FamilyParams
from components.params import check_family
from components.tasks import TASKS


def create(params: FamilyParams, spec: Spec) -> Model:
    """A model with fresh weights, from torch's current random state."""
    family = FAMILIES[params.family]
    return Model(params, family, TASKS[spec.task], spec, family.build(params, spec))


def adopt(folder: Path, params: FamilyParams, spec: Spec) -> Model:
    """A model with the weights of a checkpoint; it depends on the checkpoint no more."""
    family = FAMILIES[params.family]
    made, module = cast(Adopting, family).adopt(folder, params, spec)
    return Model(made, family, TASKS[spec.task], spec, module)


def save(model: Model, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.family.save(model.module, out)
    card = {"params": model.params.model_dump(), "spec": model.spec.model_dump()}
    (out / "temper.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")


def load(directory: Path) -> Model:
    """The model in eval mode on the CPU."""
    card = json.loads((directory / "temper.json").read_text("utf-8"))
    params = check_family(card["params"])
    spec = Spec.model_validate(card["spec"])
    family = FAMILIES[params.family]
    module = family.load(directory, params, spec).eval()
    return Model(params, family, TASKS[spec.task], spec, module)
