"""The matrix for people: a table for terminals, a page for browsers, CSV for `dvc plots`."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import speed

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Row = Mapping[str, Any]
VERDICT = {"better": "green", "no worse": "green", "cannot tell": "yellow", "worse": "red"}
SPEED = {"faster": "green", "same": "default", "slower": "red", "cannot tell": "yellow"}
HOW_TO_READ = (
    "Accuracy: difference to {reference} in points, paired on {rows:,} test rows, with its {confidence:.0%} interval "
    "and verdict against a margin of {margin:g} points. Latency: median of the calls in {rounds} interleaved rounds; "
    "how many times as fast as {reference}, with its {confidence:.0%} interval; faster or slower if surely beyond "
    "{same:.0%} and the control's noise, same if surely within {near:.0%}."
)


def reading(matrix: Mapping[str, Any]) -> str:
    return HOW_TO_READ.format(
        reference=matrix["reference"],
        rows=matrix["test_rows"],
        confidence=matrix["confidence"],
        margin=matrix["margin"] * 100,
        rounds=matrix["rounds"],
        same=speed.SAME,
        near=speed.NEAR,
    )


def accuracy_lines(row: Row, reference: str) -> tuple[str, str]:
    """(accuracy and verdict, difference and interval; what it takes to tell)"""
    if row["accuracy"] is None:
        return "", ""
    first = f"{row['accuracy'] * 100:.1f} %"
    if row.get("cell") == reference:
        return first, "the reference"
    if row["accuracy_difference"] is None:
        return first, ""
    difference, low, high = (row[f"accuracy_{key}"] * 100 for key in ("difference", "low", "high"))
    needed = f"\nneeds {row['rows_needed']:,} rows" if row["rows_needed"] else ""
    return f"{first} {row['verdict']}", f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]{needed}"


def figure(value: float) -> str:
    """Three digits that matter, never as 1e-05."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def ratio(value: float, *ends: float) -> str:
    """1.92x [1.90, 1.95]: two decimals below 10, one below 100, none above."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    interval = f" [{', '.join(f'{end:.{digits}f}' for end in ends)}]" if ends else ""
    return f"{value:.{digits}f}x{interval}"


def speed_lines(row: Row, size: str, reference: str) -> tuple[str, str]:
    """(latency, ratio to the reference and interval) at one batch size"""
    if size not in row["latency_ms"]:
        return "", ""
    latency = f"{figure(row['latency_ms'][size])} ms"
    if size not in row["speedup"] or row.get("cell") == reference:
        return latency, ""
    return latency, ratio(*row["speedup"][size])


def kernel_words(row: Row) -> str:
    """In what a build multiplies, where it is not plain float32: why it may be slower than it looks."""
    integer, floats, halves, casts = (row.get(f"{key}_nodes") for key in ("integer", "float", "half", "cast"))
    left = row.get("cpu_nodes")
    if left is not None:
        return f"{sum(left.values())} nodes on the processor, {sum(row['cuda_nodes'].values())} on CUDA"
    if integer:
        others = f", {sum(floats.values())} in floats" if floats is not None else ""
        return f"{sum(integer.values())} layers in integers{others}"
    if casts and floats is not None:
        return f"{sum((halves or {}).values())} of {sum(floats.values())} layers in half precision, {casts} casts"
    return ""


def size_lines(row: Row, reference: Row | None) -> tuple[str, str]:
    if row["size_mb"] is None:
        return "", ""
    times = reference["size_mb"] / row["size_mb"] if reference and reference["size_mb"] else None
    return figure(row["size_mb"]), f"{times:.1f}x smaller" if times and times > 1.05 else ""


def reference_row(matrix: Mapping[str, Any]) -> Row | None:
    return next((row for row in matrix["cells"] if row["cell"] == matrix["reference"]), None)


def reasons(matrix: Mapping[str, Any]) -> dict[str, int]:
    """Every reason a cell is not ok, numbered; cells often share one."""
    told = dict.fromkeys(row["reason"] for row in matrix["cells"] if row["status"] != "ok")
    return {reason: number for number, reason in enumerate(told, 1)}


def control_words(matrix: Mapping[str, Any]) -> str:
    """What the A/A control says of every speed in the table."""
    control = matrix["control"]
    if not control["speedup"]:
        return "No A/A control: the reference was not measured."
    parts = [
        f"batch {size} {times:.3f}x [{low:.3f}, {high:.3f}] {control['speed_verdict'][size]}"
        for size, (times, low, high) in control["speedup"].items()
    ]
    noise = max(control["noise"].values())
    words = f"Control, the reference against its own copy: {', '.join(parts)}. Noise: {noise:.1%}."
    verdicts = set(control["speed_verdict"].values())
    if verdicts & {"faster", "slower"}:
        words += " It must read same: do not trust the speeds, measure again on a quiet machine."
    elif "cannot tell" in verdicts:
        words += " The machine was too noisy to tell small differences in speed: measure again when it is quiet."
    return words


def mark(row: Row, matrix: Mapping[str, Any], decision: Mapping[str, Any] | None) -> tuple[str, str]:
    """(words, style) under a cell's name: what it is to the decision."""
    winner, champion = (decision or {}).get("winner"), (decision or {}).get("champion") or {}
    if row["digest"] and row["digest"] == champion.get("digest"):
        return f"★ champion, version {champion['version']}", "bold green"
    if winner and winner["cell"] == row["cell"]:
        return "★ chosen", "bold green"
    if row.get("pass") == "pretrain":
        return "no classifier yet", "dim"
    return standing(row["cell"], decision or {}), "dim"


def standing(cell: str, decision: Mapping[str, Any]) -> str:
    """Why a cell with a better figure may not be the chosen one; the decision's own words tell the rest."""
    if cell in decision.get("level", []):
        return "level"
    broken = decision.get("cells", {}).get(cell, {}).get("misses", [])
    if not broken:
        return ""
    # "misses margin" for policy.margin: a wider column would break the intervals' lines at 120 columns.
    return "not eligible" if broken[0] == "status" else f"misses {broken[0].rpartition('.')[2]}"


def two(first: str, second: str, style: str = "") -> Text:
    from rich.text import Text

    return Text.assemble((first, style), ("\n" + second if second else "", "dim"))


def table(matrix: Mapping[str, Any], decision: Mapping[str, Any] | None) -> Table:
    """One row a cell, the eager and A/A control rows below it, reasons and how to read it as its caption."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    sizes = [str(size) for size in matrix["batch_sizes"]]
    numbers, reference = reasons(matrix), reference_row(matrix)
    shown = Table(title=f"{matrix['name']}: the matrix", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    shown.caption_justify = "left"
    shown.add_column("cell", no_wrap=True)
    shown.add_column("accuracy")
    shown.add_column("MB", justify="right")
    for size in sizes:
        shown.add_column(f"batch {size}", justify="right")
    shown.add_column("vs eager " + "/".join(sizes), justify="right")
    for row in matrix["cells"]:
        if row["status"] != "ok":
            style = "red" if row["status"] == "failed" else "dim"
            shown.add_row(row["cell"], Text(f"{row['status']} ({numbers[row['reason']]})"), style=style)
            continue
        words, style = mark(row, matrix, decision)
        speeds = []
        for size in sizes:
            latency, times = speed_lines(row, size, matrix["reference"])
            speeds.append(Text.assemble(latency, ("\n" + times, SPEED[row["speed_verdict"].get(size, "same")])))
        eager = "\n".join(ratio(row["speedup_eager"][size][0]) for size in sizes if size in row["speedup_eager"])
        name = Text.assemble((row["cell"], style if "bold" in style else ""), ("\n" + words if words else "", style))
        accuracy = two(*accuracy_lines(row, matrix["reference"]), VERDICT.get(row["verdict"] or "", ""))
        shown.add_row(name, accuracy, two(*size_lines(row, reference)), *speeds, eager)
    shown.add_section()
    for title, row in (("PyTorch eager", matrix["eager"]), ("control (A/A)", matrix["control"])):
        shown.add_row(title, "", "", *(two(*speed_lines(row, size, "")) for size in sizes), "", style="dim")
    champion = matrix["champion"]
    if champion.get("accuracy") is not None:
        shown.add_row("champion, same rows", two(*accuracy_lines(champion, "")), style="dim")
    notes = [f"({number}) {reason}" for reason, number in numbers.items()]
    shown.caption = Text("\n".join([*notes, reading(matrix), control_words(matrix)]), "dim")
    return shown


# --- CSV ------------------------------------------------------------------------------------------


def write_csv(matrix: Mapping[str, Any], path: Path) -> None:
    """One row a cell; `latency_ms` and `speedup` are at the policy's batch size, and once more at each."""
    plain = ["cell", "variant", "target", "kind", "pass", "parent", "status", "reason", "digest", "parameters"]
    plain += ["size_mb", "accuracy", "worst_class", "worst_class_accuracy", "accuracy_difference", "accuracy_low"]
    plain += ["accuracy_high", "mcnemar_p", "verdict", "rows_needed", "ece", "load_ms", "peak_memory_mb"]
    flat = []
    for row in matrix["cells"]:
        line = {key: row[key] for key in plain}
        line |= {key: (row["flips"] or {}).get(key) for key in ("gained", "lost", "changed")}
        at = str(matrix["batch_size"])
        line |= {"latency_ms": row["latency_ms"].get(at), "speedup": row["speedup"].get(at, [None])[0]}
        for size in map(str, matrix["batch_sizes"]):
            times, low, high = row["speedup"].get(size, [None] * 3)
            line |= {f"latency_ms_{size}": row["latency_ms"].get(size), f"speedup_{size}": times}
            line |= {f"speedup_{size}_low": low, f"speedup_{size}_high": high}
            line[f"speedup_eager_{size}"] = row["speedup_eager"].get(size, [None])[0]
        flat.append(line)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)


def write_measured(matrix: Mapping[str, Any], path: Path) -> None:
    """The cells that were measured, for `dvc plots`: what is empty in matrix.csv would be drawn at zero."""
    at = str(matrix["batch_size"])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "accuracy", "latency_ms", "size_mb"])
        for row in matrix["cells"]:
            if row["status"] == "ok":
                writer.writerow([row["cell"], row["accuracy"], row["latency_ms"].get(at), row["size_mb"]])


def write_confusion(pairs: Iterable[tuple[str, str]], path: Path) -> None:
    """Columns actual and predicted, one row a test row; only the header if nothing answered."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("actual", "predicted"), *pairs])


# --- HTML -----------------------------------------------------------------------------------------

STYLE = """body{font:15px/1.45 system-ui,sans-serif;color:#222;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.4rem}img{max-width:100%}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .7rem;border-bottom:1px solid #e6e6e6;vertical-align:top;white-space:nowrap}
td.n{text-align:right}small{color:#666;display:block}.off td{color:#888;white-space:normal}.failed td{color:#b00020}
.good{color:#00734f}.bad{color:#b00020}.open{color:#8a6100}.scroll{overflow-x:auto}"""
TONE = {"better": "good", "no worse": "good", "faster": "good", "worse": "bad", "slower": "bad", "cannot tell": "open"}


def write_html(matrix: Mapping[str, Any], image: Path, path: Path) -> None:
    """One file without scripts, fonts or links; every text in it is escaped."""
    sizes, reference = [str(size) for size in matrix["batch_sizes"]], reference_row(matrix)

    def cell(lines: tuple[str, str], tone: str = "", number: bool = True) -> str:
        first, second = (html.escape(line) for line in lines)
        return f'<td class="{"n " * number}{tone}">{first}<small>{second}</small></td>'

    body = []
    for row in matrix["cells"]:
        name = f"<td>{html.escape(row['cell'])}<small>{html.escape(kernel_words(row))}</small></td>"
        if row["status"] != "ok":
            why = html.escape(f"{row['status']}: {row['reason']}")
            kind = "failed" if row["status"] == "failed" else "off"
            body.append(f'<tr class="{kind}">{name}<td colspan="{6 + 2 * len(sizes)}">{why}</td></tr>')
            continue
        tone = TONE.get(row["verdict"] or "", "") if row is not reference else ""
        line = name + cell(accuracy_lines(row, matrix["reference"]), tone, number=False)
        flips = row["flips"]
        line += cell((f"+{flips['gained']} / -{flips['lost']}", f"p {row['mcnemar_p']:.3g}") if flips else ("", ""))
        line += cell((f"{row['worst_class_accuracy'] * 100:.1f} %", f"class {row['worst_class']}"))
        line += cell((f"{row['ece']:.3f}", "")) + cell(size_lines(row, reference))
        for size in sizes:
            line += cell(speed_lines(row, size, matrix["reference"]), TONE.get(row["speed_verdict"].get(size, ""), ""))
        for size in sizes:
            eager = row["speedup_eager"].get(size)
            line += cell((ratio(eager[0]) if eager else "", ""))
        memory = row["peak_memory_mb"]
        line += cell((f"{row['load_ms']:.0f} ms", f"{memory:.1f} MB at its peak" if memory is not None else ""))
        body.append(f"<tr>{line}</tr>")
    heads = ["cell", "accuracy", "rows gained / lost", "worst class", "ECE", "MB"]
    heads += [f"latency, batch {size}" for size in sizes] + [f"vs eager, batch {size}" for size in sizes] + ["load"]
    picture = base64.b64encode(image.read_bytes()).decode()
    title = html.escape(f"{matrix['name']}: the matrix")
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1>
<p>{html.escape(reading(matrix))} {html.escape(control_words(matrix))}</p>
<p><img alt="accuracy against latency" src="data:image/png;base64,{picture}"></p>
<div class="scroll"><table><thead><tr>{"".join(f"<th>{html.escape(head)}</th>" for head in heads)}</tr></thead>
<tbody>
{chr(10).join(body)}
</tbody></table></div>
</body></html>
"""
    path.write_text(page, "utf-8")
