"""What changed from one matrix to another, cell by cell, and what of it can be compared at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.report import words

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Matrix = Mapping[str, Any]
HOST = ("machine", "isa", "cores", "gpu", "driver", "providers", "tensorrt")


def other_host(then: Matrix, now: Matrix) -> list[str]:
    """The fields of the host that differ, in words; of one that an older matrix did not name nothing is known."""
    known = [field for field in HOST if field in then["host"] and field in now["host"]]
    return [
        f"{field} {then['host'][field]} → {now['host'][field]}"
        for field in known
        if then["host"][field] != now["host"][field]
    ]


def warnings(then: Matrix, now: Matrix) -> list[str]:
    """What forbids a comparison, loud; empty if nothing does."""
    found = []
    if fields := other_host(then, now):
        found.append(f"OTHER HOST ({'; '.join(fields)}): latencies cannot be compared.")
    if then["threads"] != now["threads"]:
        found.append(f"OTHER THREADS ({then['threads']} → {now['threads']}): latencies cannot be compared.")
    if then["batch_size"] != now["batch_size"]:
        found.append(f"OTHER BATCH SIZE ({then['batch_size']} → {now['batch_size']}): latencies cannot be compared.")
    if then["data_sha256"] != now["data_sha256"]:
        hashes = f"{then['data_sha256'][:12]} → {now['data_sha256'][:12]}, {then['test_rows']:,} → {now['test_rows']:,}"
        found.append(
            f"OTHER DATA ({hashes} test rows): accuracies are of other rows, and latencies cannot be compared."
        )
    if (then["reference"], then["margin"]) != (now["reference"], now["margin"]):
        asked = " → ".join(f"{m['reference']}, {m['margin'] * 100:g} points" for m in (then, now))
        found.append(f"OTHER QUESTION ({asked}): verdicts cannot be compared.")
    return found


def notes(then: Matrix, now: Matrix) -> list[str]:
    """What to keep in mind where a comparison is allowed."""
    noise = [max((m["control"].get("noise") or {"": 0.0}).values()) for m in (then, now)]
    versions = [
        f"{name} {then['versions'].get(name, 'none')} → {now['versions'].get(name, 'none')}"
        for name in dict.fromkeys([*then["versions"], *now["versions"]])
        if then["versions"].get(name) != now["versions"].get(name)
    ]
    told = [f"Latencies are of two runs, not paired: what differs by less than noise ({noise[0]:.1%}, {noise[1]:.1%}) "
            f"tells nothing."] if not other_host(then, now) else []  # fmt: skip
    return told + ([f"Other versions: {', '.join(versions)}."] if versions else [])


def compared(then: Matrix, now: Matrix) -> list[dict[str, Any]]:
    """Every cell of both: figures then and now (None where it is not), and what became of it.

    `became` is added, removed, same file, other file, or one of them has none.
    """
    rows = [{row["cell"]: row for row in matrix["cells"]} for matrix in (then, now)]
    found = []
    for cell in dict.fromkeys([*rows[1], *rows[0]]):
        old, new = (of.get(cell) for of in rows)
        pair = {"then": figures(old, then), "now": figures(new, now)}
        if old is None or new is None:
            became = "added" if old is None else "removed"
        elif old["digest"] and new["digest"]:
            became = "same file" if old["digest"] == new["digest"] else "other file"
        else:
            became = "no file" if not new["digest"] else "has a file now"
        found.append({"cell": cell, "became": became, **pair})
    return found


def figures(row: Mapping[str, Any] | None, matrix: Matrix) -> dict[str, Any] | None:
    if row is None:
        return None
    ok = row["status"] == "ok"
    return {
        "accuracy": row["accuracy"] if ok else None,
        "size_mb": row["size_mb"] if ok else None,
        "latency_ms": row["latency_ms"].get(str(matrix["batch_size"])) if ok else None,
        "verdict": (row["verdict"] or "") if ok else row["status"],
    }


def told(pair: Mapping[str, Any], key: str, text: Any, change: Any) -> str:
    """Two lines, then and now; the second with the change where both have the figure and it may be compared."""
    then, now = (of[key] if of else None for of in (pair["then"], pair["now"]))
    lines = ["-" if value is None else text(value) for value in (then, now)]
    if change and then is not None and now is not None and then != now:
        lines[1] = f"{lines[1]} ({change(then, now)})"
    return "\n".join(lines)


def laid_out(then: Matrix, now: Matrix, since: str, narrow: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    stops = warnings(then, now)
    fair_latency = not any("latencies" in stop for stop in stops)
    fair_accuracy = not any("accuracies" in stop for stop in stops)
    shown = Table(title=f"{now['name']}: what changed since {since}", box=box.SIMPLE_HEAD, show_lines=False)
    shown.title_justify, shown.title_style = "left", "bold"
    shown.add_column("cell", no_wrap=True)
    for head in ("accuracy", "MB", f"ms, batch {now['batch_size']}", "verdict"):
        shown.add_column(f"{head}\nthen, now", justify="left" if head == "verdict" else "right", no_wrap=True)
    points = (lambda a, b: words.points(b - a)) if fair_accuracy else None
    times = (lambda a, b: words.ratio(a / b)) if fair_latency else None
    share = lambda a, b: f"{b / a - 1:+.0%}"  # noqa: E731
    style = {"added": "green", "removed": "red", "other file": "default"}
    for pair in compared(then, now):
        name = pair["cell"].replace("/", "/\n") if narrow else pair["cell"]
        verdicts = [of["verdict"] if of else "-" for of in (pair["then"], pair["now"])]
        shown.add_row(
            Text.assemble(name, ("\n" + pair["became"], style.get(pair["became"], "dim"))),
            told(pair, "accuracy", lambda value: f"{value * 100:.1f} %", points),
            told(pair, "size_mb", words.figure, share),
            told(pair, "latency_ms", words.figure, times),
            Text("\n").join(
                [Text(verdicts[0], "dim"), Text(verdicts[1], "bold" if verdicts[0] != verdicts[1] else "")]
            ),
        )
    return shown


def table(then: Matrix, now: Matrix, since: str, width: int) -> Group:
    """Loud warnings first and last, between them one row a cell."""
    from rich.console import Console, Group
    from rich.measure import Measurement
    from rich.text import Text

    if then == now:
        return Group(Text(f"Nothing changed since {since}. It is the very same matrix."))
    ruler = Console(width=10_000)
    shown = laid_out(then, now, since, narrow=False)
    if Measurement.get(ruler, ruler.options, shown).maximum > width:
        shown = laid_out(then, now, since, narrow=True)
    loud = Text("\n".join(warnings(then, now)), "bold red")
    return Group(*[loud] * bool(loud), shown, Text("\n".join(notes(then, now)), "dim"), *[loud] * bool(loud))
