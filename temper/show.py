"""`temper show`: all that is known of a registered version."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from components import journal, move, params, registry
from temper import workspace
from temper.history import moved, who


def show(which: str) -> None:
    """`which`: a number or an alias. Raises TemperError for a version that is not there."""
    name = params.load().name
    found, version = registry.registered(name), registry.find(name, which)
    number = version.version
    known = journal.read()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    table.add_row("version", Text(f"{number} of {name}", "bold"))
    table.add_row("is", is_now(known, found, name, number))
    row = json.loads(version.tags.get("matrix_row", "{}"))
    for key, value in measured(row):
        table.add_row(key, value)
    for key, value in sorted(version.tags.items()):
        if key != "matrix_row":
            table.add_row(key, Text(value))
    table.add_row("files", Text(version.source))
    for line in known.of(name):
        if number in (line.before, line.to):
            reason = line.fields.get("reason", "no reason was kept")
            table.add_row(
                f"line {line.number}", Text(f"{line.time} {line.action} {moved(line)}, {who(line)}: {reason}")
            )
    workspace.console().print(table)


def is_now(known: journal.Journal, found: registry.Registered, name: str, number: int) -> str:
    """Its aliases, or what became of it."""
    roles = sorted(alias for alias, at in found.aliases.items() if at == number)
    standing = move.now(known, found, name)
    if number in standing.out:
        roles.append("rolled back: stays out until `temper promote --again`")
    elif not roles:
        was = any(number in (line.before, line.to) for line in known.of(name))
        roles.append("an earlier champion" if was else "registered, never promoted")
    return ", ".join(roles)


def measured(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The matrix's row that it was chosen by, in words."""
    if row.get("accuracy") is not None:
        worst = f", of the worst class {row['worst_class_accuracy']:.4f}" if row.get("worst_class_accuracy") else ""
        yield "accuracy", f"{row['accuracy']:.4f}{worst}"
    if row.get("accuracy_difference") is not None:
        ends = f" [{row['accuracy_low']:+.4f}, {row['accuracy_high']:+.4f}]"
        yield "to the reference", f"{row['accuracy_difference']:+.4f}{ends}, {row['verdict']}"
    if row.get("ece") is not None:
        yield "calibration error", f"{row['ece']:.4f}"
    for size, latency in sorted((row.get("latency_ms") or {}).items(), key=lambda item: int(item[0])):
        speed = (row.get("speedup") or {}).get(size)
        yield (
            f"batch {size}",
            f"{latency:.4g} ms" + (f", {speed[0]:.2f} times as fast as the reference" if speed else ""),
        )
    if row.get("size_mb") is not None:
        yield "size", f"{row['size_mb']:.3f} MB, {row['parameters']:,} parameters"
    if row.get("peak_memory_mb") is not None:
        yield "peak memory", f"{row['peak_memory_mb']:.0f} MB"
