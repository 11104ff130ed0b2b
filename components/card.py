"""The model card that ships with a version: Markdown, from the evidence it was chosen by; nothing is filled in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from components.data import SPLITS
from components.report import words
from components.report.markdown import line, safe

FEW_ROWS = 100  # of a class: its accuracy is known to some 10 points


def page(
    name: str,
    row: Mapping[str, Any],
    matrix: Mapping[str, Any],
    spec: Mapping[str, Any],
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    data: Path,
    licence: str,
) -> str:
    """`row`: the version's cell in `matrix`; `params`: params.yaml as it ran; `data`: the prepared data's folder."""
    asked = "texts" if spec["vocabulary"] else "images"
    sections: dict[str, Iterator[str]] = {
        "What it is for": _purpose(spec, row, asked, params["task"].get("range")),
        "Data": _data(data, matrix),
        "How it was made": _chain(row, matrix, params),
        "Measured": _quality(row, matrix),
        "Speed and size": _speed(row, matrix, spec),
        "Where it was measured": _host(matrix),
        "Limits": _limits(row, matrix, spec, asked),
        "Licence": iter(
            [safe(next((text for text in licence.splitlines() if text.strip()), "None")), "", "In LICENSE."]
        ),
        "Ask it": _use(name, spec, asked),
        "Lineage": (f"- {key}: `{value}`" for key, value in sorted(tags.items()) if key != "matrix_row"),
    }
    lines = [f"# {name}: {row['cell']}", ""]
    for title, told in sections.items():
        lines += [f"## {title}", "", *told, ""]
    return "\n".join(lines)


def _purpose(
    spec: Mapping[str, Any], row: Mapping[str, Any], asked: str, limits: Sequence[float] | None
) -> Iterator[str]:
    shape = " x ".join(map(str, spec["shape"]))
    values = f"raw values from {limits[0]:g} to {limits[1]:g}, as in the data" if limits else "raw values"
    taken = f"texts, of which it reads the first {shape} tokens" if asked == "texts" else f"images ({shape}), {values}"
    if "token_type_ids" in spec["inputs"]:
        taken = f"pairs of {taken}"
    classes = [safe(name) for name in spec["classes"]]
    shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    yield f"It sorts {taken}, into {len(classes)} classes: {shown}."
    yield ""
    yield (
        f"Variant `{row['variant']}` (pass `{row['pass']}`) as target `{row['target']}` ({row['kind']}): "
        f"{row['parameters']:,} parameters, {words.figure(row['size_mb'])} MB. It was chosen among the builds of one "
        f"run by a policy, on the figures below."
    )


def _data(data: Path, matrix: Mapping[str, Any]) -> Iterator[str]:
    import pyarrow.parquet as pq

    rows = {name: pq.read_metadata(path).num_rows for name in SPLITS if (path := data / f"{name}.parquet").exists()}
    manifest = data.with_name("raw") / "manifest.json"
    if manifest.exists():
        known = json.loads(manifest.read_text("utf-8"))
        told = ", ".join(
            f"{key} {value}" for key, value in known["source"].items() if not isinstance(value, dict | list)
        )
        yield f"- source: {safe(told)}"
        aside = known["rows"] - sum(rows.values())
        if beside := known.get("corpus"):
            told = f"{beside['rows']:,} texts without labels, for pretraining only; sha256 `{beside['sha256']}`"
            yield f"- corpus: {safe(str(beside['source'].get('path') or beside['source'].get('dataset')))}, {told}"
        yield f"- {known['rows']:,} rows came in, of which {aside:,} were set aside; sha256 `{known['sha256']}`"
    else:
        yield "- source: its manifest was not in the workspace that registered this version"
    yield f"- prepared data, all splits: sha256 `{matrix['data_sha256']}`"
    if rows:
        uses = {"train": "", "validation": "", "calibration": " (of INT8)", "test": " (all figures below)"}
        yield "- splits: " + ", ".join(f"{name}{uses.get(name, '')} {count:,} rows" for name, count in rows.items())


def _chain(row: Mapping[str, Any], matrix: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[str]:
    """From init to the variant, then the target, each with its params."""
    parents = {cell["variant"]: cell["parent"] for cell in matrix["cells"]}
    chain, at = [], row["variant"]
    while at in parents and at not in chain:
        chain.append(at)
        at = parents[at]
    yield f"1. `init`: {_settings(params['init']['model'])}"
    for number, variant in enumerate(reversed(chain), 2):
        section = params["variants"].get(variant, {})
        others = {key: value for key, value in section.items() if key not in ("from", "pass")}
        yield f"{number}. `{variant}`, pass `{section.get('pass', '')}` on `{parents[variant]}`: {_settings(others)}"
    yield f"{len(chain) + 2}. target `{row['target']}`: {_settings(params['targets'].get(row['target'], {}))}"
    yield ""
    yield f"Seed {params['seed']}, {params['threads']} threads."


def _settings(section: Mapping[str, Any]) -> str:
    """Nested params in one line."""

    def told(value: Any) -> str:
        if isinstance(value, Mapping):
            return "(" + ", ".join(f"{key} {told(inner)}" for key, inner in value.items()) + ")"
        if isinstance(value, list):
            return " and ".join(map(told, value)) or "none"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return safe(", ".join(f"{key} {told(value)}" for key, value in section.items())) or "nothing set"


def _quality(row: Mapping[str, Any], matrix: Mapping[str, Any]) -> Iterator[str]:
    sure = f"{matrix['confidence']:.0%}"
    low, high = proportion_interval(row["accuracy"], row["rows"], matrix["confidence"])
    yield f"On {row['rows']:,} test rows that training never saw; {sure} intervals, differences paired row by row."
    yield ""
    yield line(["", "this build", f"against {matrix['reference']}"])
    yield line(["---"] * 3)
    itself = row["cell"] == matrix["reference"]
    compared = row["accuracy_difference"] is not None and not itself
    difference = "the reference itself" if itself else "not measured"
    if compared:
        ends = (row["accuracy_difference"], row["accuracy_low"], row["accuracy_high"])
        difference = f"{words.points(*ends)} points: {row['verdict']} (margin {matrix['margin'] * 100:g})"
    yield line(["accuracy", f"{row['accuracy']:.4f} ({low:.4f} to {high:.4f})", safe(difference)])
    change, fell = row["ece_change"], row["class_change"]
    told = f"{change['difference']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})" if change and compared else ""
    yield line(["calibration error (ECE)", _number(row["ece"]), told])
    told = f"fell most: {fell['class']}, {words.points(fell['change'])} points" if fell and compared else ""
    worst = f"{_number(row['worst_class_accuracy'])} ({row['worst_class']})"
    yield line(["worst class", safe(worst), safe(told)])
    if (flips := row["flips"]) and compared:
        told = f"{flips['changed']:.2%} of answers: {flips['gained']} rows now right, {flips['lost']} now wrong"
        yield line(["flips", "", told])
    if champion := row["versus_champion"]:
        ends = (champion["difference"], champion["low"], champion["high"])
        yield ""
        beware = f" Beware: {seen}." if (seen := words.seen_words(matrix)) else ""
        yield f"Against the champion before it: {safe(words.points(*ends))} points, {champion['verdict']}.{beware}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def proportion_interval(share: float, rows: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share: for an accuracy it holds near 1 too."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle, scale = share + z * z / (2 * rows), 1 + z * z / rows
    reach = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max((middle - reach) / scale, 0.0), min((middle + reach) / scale, 1.0)


def _speed(row: Mapping[str, Any], matrix: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    heads = ["batch", "median ms", "p95", "p99", "rows/s", f"times as fast as {matrix['reference']}"]
    if spec["vocabulary"]:
        heads.insert(1, "sequence length")
    if row["latency_ms"]:
        yield line(heads)
        yield line(["---"] * len(heads))
    for size in sorted(row["latency_ms"], key=int):
        calls = row["latency"].get(size) or {}
        single = [words.figure(calls[key]) if calls.get(key) is not None else "" for key in ("p95_ms", "p99_ms")]
        cells = [size, words.figure(row["latency_ms"][size]), *single, f"{calls.get('rows_per_s') or 0:,.0f}"]
        if spec["vocabulary"]:
            cells.insert(1, str(spec["shape"][0]))
        times = row["speedup"].get(size)
        told = f"{words.ratio(*times)}, {row['speed_verdict'].get(size, '')}" if times else "not measured"
        yield line([*cells, "the reference itself" if row["cell"] == matrix["reference"] else safe(told)])
    yield ""
    yield f"- file: {words.figure(row['size_mb'])} MB"
    memory, load = row["peak_memory_mb"], row["load_ms"]
    yield f"- memory at its peak, above the process without it: {_unit(memory, 'MB')}; loading took {_unit(load, 'ms')}"
    yield f"- INT8 certificate: {words.integer_words(row) or 'none, the build claims no INT8'}"
    if times := {size: value for size, value in row["energy_mj"].items() if value is not None}:
        yield "- energy: " + ", ".join(f"batch {size} {words.figure(value)} mJ" for size, value in times.items())


def _unit(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{words.figure(value)} {unit}"


def _host(matrix: Mapping[str, Any]) -> Iterator[str]:
    host = matrix["host"]
    yield f"- {safe(host['machine'])}, {host['cores']} cores, {matrix['threads']} threads; {', '.join(host['isa'])}"
    yield f"- GPU: {safe(host['gpu'] or 'none')}"
    yield "- " + ", ".join(f"{package} {version}" for package, version in matrix["versions"].items())
    yield f"- {words.control_words(matrix)}"


def _limits(row: Mapping[str, Any], matrix: Mapping[str, Any], spec: Mapping[str, Any], asked: str) -> Iterator[str]:
    yield "- Nothing is known of inputs unlike the test rows, of noise and attacks, or of groups of people in the data."
    if (built := sum(cell["status"] == "ok" for cell in matrix["cells"])) > 1:
        yield (
            f"- It was chosen among {built} builds on the test rows that it is reported on: the best of many looks a "
            f"little better than it is."
        )
    if asked == "texts":
        yield f"- Longer texts are cut at {spec['shape'][0]} tokens; latency of shorter ones was not measured."
    sizes = ", ".join(map(str, matrix["batch_sizes"]))
    yield f"- Latency was measured at batch {sizes} on one machine; other sizes, threads and processors were not."
    if row["verdict"] == "cannot tell":
        needed = f"{row['rows_needed']:,} test rows" if row["rows_needed"] else "more test rows"
        yield f"- Whether it is worse than {matrix['reference']} cannot be told from these rows; {needed} would do."
    few = [name for name, known in (row["classes"] or {}).items() if (known["rows"] or 0) < FEW_ROWS]
    if few:
        shown = ", ".join(map(safe, few[:10])) + (f" and {len(few) - 10} more" if len(few) > 10 else "")
        yield f"- Fewer than {FEW_ROWS} test rows each, so their accuracy is rough: {shown}."
    if row["versus_champion"] is None:
        yield f"- It was not compared with a champion: {safe(matrix['champion'].get('reason') or 'not measured')}."
    if all(value is None for value in row["energy_mj"].values()):
        yield f"- {safe(words.energy_words(matrix))}"
    others = [cell["cell"] for cell in matrix["cells"] if cell["status"] == "not measured"]
    if others:
        yield f"- Builds of the same run that were not measured, so not compared: {', '.join(others)}."


def _use(name: str, spec: Mapping[str, Any], asked: str) -> Iterator[str]:
    example = {
        "texts": '["a text", "another"]',
        "images": f"images  # raw, ({', '.join(['n', *map(str, spec['shape'])])})",
    }
    if "token_type_ids" in spec["inputs"]:
        example["texts"] = '[["a text", "its pair"]]'
    yield "```python"
    yield "import mlflow"
    yield ""
    yield f'model = mlflow.pyfunc.load_model("models:/{name}@champion")'
    yield f"{asked} = {example[asked]}" if asked == "texts" else f"# {example[asked]}"
    yield f"model.predict({asked})  # class names"
    yield f'model.predict({asked}, params={{"output": "probabilities"}})  # (rows, {len(spec["classes"])}), or "logits"'
    yield "```"
