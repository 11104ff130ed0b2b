"""Does pretrain help where labels are few? `python benchmarks/pretrain_few_labels.py` (some minutes on two cores).

Digits: all training images without labels, and 100 of them with. For each family and seed, three models of the same
initial weights and the same 100 rows: trained from init, and from what pretrain left, by each of its methods. Accuracy
on the same 540 test rows: of the whole model after training (fine-tuned), and of a logistic regression on the features
before it (linear). Differences are paired by seed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LABELLED = 100
FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {"family": "mlp", "hidden": [128, 64], "dropout": 0.0},
    "resnet": {"family": "resnet", "stem": "cifar", "widths": [16, 32], "blocks": [1, 1], "dropout": 0.0},
    "vit": {
        "family": "vit",
        "patch_size": 2,
        "hidden_size": 32,
        "layers": 2,
        "heads": 4,
        "head_dim": 8,
        "intermediate_size": 64,
        "dropout": 0.0,
    },
}
VIEWS = [{"kind": "crop", "padding": 1}, {"kind": "rotate", "degrees": 15.0}]
METHODS: dict[str, dict[str, Any]] = {
    "contrastive": {"kind": "contrastive", "views": VIEWS, "temperature": 0.2, "projection": 32},
    "masked": {"kind": "masked", "ratio": 0.5},
}
PRETRAIN = {
    "epochs": 40,
    "batch_size": 128,
    "optimizer": {"kind": "adamw", "lr": 0.002, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_share": 0.1},
    "clip_norm": 1.0,
    "patience": 40,
}
TRAIN = {
    "epochs": 60,
    "batch_size": 20,
    "optimizer": {"kind": "adamw", "lr": 0.001, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_share": 0.1},
    "loss": {"kind": "cross_entropy", "label_smoothing": 0.1},
    "clip_norm": 1.0,
    "patience": 60,
}


def splits(seed: int) -> dict[str, Any]:
    """Rows of digits, drawn anew for each seed: train, labelled (among train), validation, test."""
    import numpy as np
    from sklearn.datasets import load_digits

    from components.data import Rows

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    parts = {"train": order[:1157], "labelled": order[:LABELLED], "validation": order[1157:1257], "test": order[1257:]}
    return {
        name: Rows(rows, {"image": digits.images[rows].astype(np.float32)}, digits.target[rows].astype(np.int64))
        for name, rows in parts.items()
    }


def linear(model: Any, rows: Mapping[str, Any]) -> float:
    """Accuracy of a logistic regression on the features, trained on the labelled rows."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def features(part: str) -> Any:
        raw = {name: torch.from_numpy(x) for name, x in rows[part].inputs.items()}
        with torch.no_grad():
            return model.family.features(model.module.eval(), model.task.preprocess(raw, model.spec)).numpy()

    scale = StandardScaler().fit(features("labelled"))
    fitted = LogisticRegression(max_iter=2000).fit(scale.transform(features("labelled")), rows["labelled"].labels)
    return float(fitted.score(scale.transform(features("test")), rows["test"].labels))


def once(family: str, seed: int, threads: int) -> dict[str, dict[str, float]]:
    """{how it began: accuracies}."""
    import torch

    from components import assemble, params
    from components.data import Spec
    from components.fit import answers
    from components.model import Context, Model
    from components.passes import PASSES
    from components.schemas import image_classification

    torch.set_num_threads(threads)
    rows = splits(seed)
    spec = Spec(
        task="image_classification",
        inputs={"image": "float32"},
        vocabulary=None,
        shape=[8, 8],
        classes=[str(i) for i in range(10)],
        statistics=image_classification.statistics([rows["train"].inputs]),
    )
    made: dict[str, dict[str, float]] = {}
    for start in ("init", *(name for name in METHODS if name != "masked" or family in params.MASKABLE)):
        torch.manual_seed(seed)
        model = assemble.create(params.check_family(FAMILIES[family]), spec)

        def same(_: params.Family, made: Model = model) -> Model:
            return made

        with tempfile.TemporaryDirectory() as folder:
            context = Context(rows.__getitem__, same, seed, Path(folder), "", lambda *told: None)
            if start in METHODS:
                wanted = {"from": "init", "pass": "pretrain", "method": METHODS[start], "fit": PRETRAIN}
                PASSES["pretrain"](model, params.check_variant(wanted), context)
            accuracies = {"linear": linear(model, rows)}
            few = replace(context, rows=lambda split: rows["labelled" if split == "train" else split])
            PASSES["train"](model, params.check_variant({"from": "init", "pass": "train", "fit": TRAIN}), few)
        right = answers(model, rows["test"]).argmax(1).numpy() == rows["test"].labels
        made[start] = accuracies | {"fine-tuned": float(right.mean())}
    return made


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    words.add_argument("--threads", type=int, default=2)
    words.add_argument("--out", type=Path, default=None, help="left out: benchmarks/results")
    chosen = words.parse_args()

    from components.host import QUIET

    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    lines: list[dict[str, Any]] = []
    for family in chosen.families:
        runs = []
        for seed in range(chosen.seeds):
            runs.append(once(family, seed, chosen.threads))
            print(family, seed, runs[-1], file=sys.stderr, flush=True)
        for start in runs[0]:
            line: dict[str, Any] = {"family": family, "from": start}
            for figure in ("linear", "fine-tuned"):
                values = [100 * run[start][figure] for run in runs]
                gains = [100 * (run[start][figure] - run["init"][figure]) for run in runs]
                line[f"{figure}, %"] = statistics.mean(values)
                line[f"{figure}: points over init"] = "" if start == "init" else f"{statistics.mean(gains):+.2f}"
                line[f"{figure}: by seed"] = "" if start == "init" else ", ".join(f"{gain:+.1f}" for gain in gains)
            lines.append(line)
    import results

    notes = [
        f"digits, 8x8: {LABELLED} labelled of 1,157 training images; validation 100, test 540; {chosen.seeds} seeds, "
        "each with a split and initial weights of its own; means over seeds, differences paired by seed.",
        "linear: a logistic regression on the features of the labelled rows, before training; fine-tuned: the whole "
        f"model after {TRAIN['epochs']} epochs on the labelled rows. The validation rows' labels choose the epoch in "
        "both cases, so they count as labels too.",
        f"pretrain: {PRETRAIN['epochs']} epochs.",
    ]
    out = {"out": chosen.out} if chosen.out else {}
    print(results.write("pretrain_few_labels", "Pretrain where labels are few", lines, notes, **out))


if __name__ == "__main__":
    main()
