"""train: fit all weights to the labels."""

from __future__ import annotations

from components.fit import fit, supervised
from components.model import Context, Model
from components.params import Train


def run(model: Model, params: Train, context: Context) -> tuple[Model, dict[str, float]]:
    fit(model, params.fit, context, supervised(model, params.fit))
    return model, {}
