"""The matrix as a table for terminals, as much of it as the width takes without breaking an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from components.report import words

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

Row = Mapping[str, Any]
VERDICT = {"better": "green", "no worse": "green", "cannot tell": "yellow", "worse": "red"}
SPEED = {"faster": "green", "same": "default", "slower": "red", "cannot tell": "yellow"}
FRONT = "◆"


@dataclass(frozen=True)
class Layout:
    """What a table has room for."""

    sizes: tuple[str, ...]  # batch sizes shown
    narrow: bool = False  # names break at the slash, intervals have a line of their own
    eager: bool = True
    megabytes: bool = True

    def left_out(self, sizes: tuple[str, ...]) -> str:
        gone = [f"batch {size}" for size in sizes if size not in self.sizes]
        gone += [name for name, shown in (("vs eager", self.eager), ("MB", self.megabytes)) if not shown]
        return ", ".join(gone)


def layouts(matrix: Mapping[str, Any]) -> list[Layout]:
    """From the widest to the narrowest, which has the policy's batch size only."""
    sizes = tuple(str(size) for size in matrix["batch_sizes"])
    at = tuple(size for size in sizes if size == str(matrix["batch_size"])) or sizes[:1]
    whole = Layout(sizes)
    narrow = replace(whole, narrow=True)
    without = replace(narrow, eager=False)
    single = replace(without, sizes=at)
    return [whole, narrow, without, single, replace(single, megabytes=False)]


def two(first: str, second: str, style: str = "") -> Text:
    from rich.text import Text

    return Text.assemble((first, style), ("\n" + second if second else "", "dim"))


def mark(row: Row, matrix: Mapping[str, Any], decision: Mapping[str, Any] | None) -> tuple[str, str]:
    """(words, style) under a cell's name: what it is to the decision."""
    winner, champion = (decision or {}).get("winner"), (decision or {}).get("champion") or {}
    if row["digest"] and row["digest"] == champion.get("digest"):
        return f"★ champion, version {champion['version']}", "bold green"
    if winner and winner["cell"] == row["cell"]:
        return "★ chosen", "bold green"
    return words.standing(row["cell"], decision or {}), "dim"


def name_of(row: Row, matrix: Mapping[str, Any], decision: Mapping[str, Any] | None, layout: Layout) -> Text:
    from rich.text import Text

    told, style = mark(row, matrix, decision)
    certificate = row["certificate"] or {}
    share = certificate.get("integer_multiply_add_share")
    below = ["", *filter(None, [told, f"{share:.0%} in integers" if share is not None else ""])]
    name, under = row["cell"], "\n".join(below)
    if layout.narrow:
        name, under = name.replace("/", "/\n"), under.replace(", ", ",\n")
    name += f" {FRONT}" if words.on_front(row) else ""
    return Text.assemble((name, style if "bold" in style else ""), (under, style))


def speed(row: Row, size: str, reference: str, layout: Layout) -> Text:
    from rich.text import Text

    latency, times = words.speed_lines(row, size, reference)
    times = times.replace("] ", "]\n")  # what cannot be told
    if layout.narrow:
        times = times.replace(" [", "\n[")
    told = f"\n{times}" if times else ""
    return Text.assemble(latency, (told, SPEED[row["speed_verdict"].get(size, "same")]))


def laid_out(matrix: Mapping[str, Any], decision: Mapping[str, Any] | None, layout: Layout) -> Table:
    """One row a cell, the eager and A/A control rows below it; no line of a figure breaks."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    numbers, reference = words.reasons(matrix), words.reference_row(matrix)
    shown = Table(title=f"{matrix['name']}: the matrix", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    shown.add_column("cell", no_wrap=True)
    shown.add_column("accuracy", no_wrap=True)
    if layout.megabytes:
        shown.add_column("MB", justify="right", no_wrap=True)
    for size in layout.sizes:
        shown.add_column(f"batch {size}", justify="right", no_wrap=True)
    if layout.eager:
        shown.add_column("vs eager\n" + "/".join(layout.sizes), justify="right", no_wrap=True)
    last = [""] * layout.eager
    for row in matrix["cells"]:
        if row["status"] != "ok":
            style = "red" if row["status"] == "failed" else "dim"
            name = row["cell"].replace("/", "/\n") if layout.narrow else row["cell"]
            shown.add_row(name, Text(f"{row['status']} ({numbers[row['reason']]})"), style=style)
            continue
        accuracy = two(*words.accuracy_lines(row, matrix["reference"]), VERDICT.get(row["verdict"] or "", ""))
        line = [name_of(row, matrix, decision, layout), accuracy]
        line += [two(*words.size_lines(row, reference))] * layout.megabytes
        line += [speed(row, size, matrix["reference"], layout) for size in layout.sizes]
        eager = [words.ratio(row["speedup_eager"][size][0]) for size in layout.sizes if size in row["speedup_eager"]]
        shown.add_row(*line, *["\n".join(eager)] * layout.eager)
    shown.add_section()
    for title, row in (("PyTorch eager", matrix["eager"]), ("control (A/A)", matrix["control"])):
        speeds = [speed({**row, "speed_verdict": {}}, size, "", layout) for size in layout.sizes]
        shown.add_row(title, "", *[""] * layout.megabytes, *speeds, *last, style="dim")
    champion = matrix["champion"]
    if champion.get("accuracy") is not None:
        name = "champion,\nsame rows" if layout.narrow else "champion, same rows"
        shown.add_row(name, two(*words.accuracy_lines(champion, "")), style="dim")
    return shown


def table(matrix: Mapping[str, Any], decision: Mapping[str, Any] | None, width: int) -> Group:
    """The widest table that `width` takes, then the reasons, what was left out, and how to read it."""
    from rich.console import Console, Group
    from rich.measure import Measurement
    from rich.text import Text

    ruler = Console(width=10_000)
    chosen = layouts(matrix)
    for layout in chosen:
        shown = laid_out(matrix, decision, layout)
        if Measurement.get(ruler, ruler.options, shown).maximum <= width:
            break
    gone = layout.left_out(chosen[0].sizes)
    notes = [f"({number}) {reason}" for reason, number in words.reasons(matrix).items()]
    notes += [f"Left out at {width} columns: {gone}; a wider terminal has room for it."] if gone else []
    notes += [words.reading(matrix), f"{FRONT} {words.FRONT}" if matrix["front"] else words.front_words(matrix)]
    notes += [words.control_words(matrix)]
    return Group(shown, Text("\n".join(notes), "dim"))
