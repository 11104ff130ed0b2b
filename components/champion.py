"""champion: what is in production answers the same test rows as the challengers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from components import answers, package, runtime, text
from components.cell import Record
from components.data import SPLITS, TOKENIZER, Placing, Rows, Spec, read_rows
from components.errors import TemperError


def run(threads: int, data: Path, champion: Path, out: Path) -> dict[str, float]:
    """Writes record.json and, if there is a champion that fits these data, predictions.parquet."""
    known = json.loads(champion.read_text("utf-8"))
    if known["version"] is None:
        Record("not measured", "no model is registered as champion yet").write(out)
        return {}
    with package.verified(known["model"], known["version"]) as shipped:
        folder = shipped.folder / "artifacts"
        found = runtime.digest(folder)
        if found != known["digest"]:
            raise TemperError(
                f"version {known['version']} of {known['model']}: its files have the digest {found[:12]}, "
                f"{str(known['digest'])[:12]} was observed: the registry was changed meanwhile; run again"
            )
        spec = Spec.read(data)
        try:
            its = Spec.model_validate(json.loads((folder / "build.json").read_text("utf-8"))["spec"])
        except ValidationError:
            Record("not measured", f"version {known['version']} was made by another version of Temper").write(out)
            return {}
        rows = asked(spec, its, data, folder)
        if rows is None:
            reason = f"version {known['version']} was made for other inputs or classes than these data have"
            Record("not measured", reason).write(out)
            return {}
        answered = answers.ask(runtime.open_build(folder, threads), rows)
        if broken := int((~np.isfinite(answered.logits).all(1)).sum()):
            reason = f"version {known['version']} answers {broken} of {len(rows)} test rows with NaN or infinite logits"
            Record("not measured", reason).write(out)
            return {}
    written = answers.write(answered, out, data / "test.parquet")
    figures = {"accuracy": answered.accuracy(), "rows": len(answered.labels)}
    told = {"trained_on_share": trained_on(spec.placing, its.placing)} if spec.placing and its.placing else {}
    Record("ok", figures={**figures, **written, **told}).write(out)
    return {"version": known["version"], **figures}


def trained_on(now: Placing, then: Placing) -> float | None:
    """About which share of today's test rows the champion was trained on, if they were among its data; None where
    that cannot be told, since rows are told apart by something else."""
    if now.key != then.key:
        return None
    train, test = SPLITS.index("train"), SPLITS.index("test")
    if "test" in now.declared:  # and if it was so then, nothing that is test was train
        return 0.0 if "test" in then.declared else then.shares[train]
    start, end = sum(now.shares[:test]), sum(now.shares[: test + 1])
    overlap = min(end, sum(then.shares[: train + 1])) - max(start, sum(then.shares[:train]))
    return round(max(overlap / (end - start), 0.0), 6)


def asked(spec: Spec, its: Spec, data: Path, folder: Path) -> Rows | None:
    """Today's test rows as the champion takes them, texts by its own tokenizer; None if it takes others."""
    if (its.task, its.inputs, its.classes) != (spec.task, spec.inputs, spec.classes):
        return None
    if its.vocabulary is None:
        return read_rows(data, "test", spec) if its.shape == spec.shape else None
    rows = read_rows(data, "test", spec, texts=True)
    tokenizer, padding = text.load(folder / TOKENIZER), its.vocabulary.padding
    inputs = text.encode(tokenizer, rows.texts["text"], rows.texts.get("pair"), its.shape[0], padding)
    return replace(rows, inputs={name: inputs[name].astype(dtype) for name, dtype in its.inputs.items()})
