"""The matrix as Markdown: for a pull request, a wiki, or the tracker's own viewer."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

from components.report import words


def safe(text: str) -> str:
    """Text that stays text in a table's cell: no tag, no link, no new column."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def row_of(row: Mapping[str, Any], matrix: Mapping[str, Any], number: Mapping[str, int]) -> list[str]:
    sizes = [str(size) for size in matrix["batch_sizes"]]
    name = f"`{row['cell']}`"
    if row["status"] != "ok":
        return [name, f"{row['status']} ({number[row['reason']]})", *[""] * (3 + len(sizes))]
    accuracy = " ".join(words.accuracy_lines(row, matrix["reference"])).replace("\n", ", ")
    speeds = [" ".join(words.speed_lines(row, size, matrix["reference"])) for size in sizes]
    megabytes = words.size_lines(row, words.reference_row(matrix))[0]
    return [
        name,
        safe(accuracy),
        megabytes,
        *map(safe, speeds),
        words.integer_words(row),
        "yes" if words.on_front(row) else "",
    ]


def page(matrix: Mapping[str, Any]) -> str:
    """A heading, the table, the reasons, how to read it, host and data."""
    sizes = [f"batch {size}" for size in matrix["batch_sizes"]]
    heads = ["cell", "accuracy", "MB", *sizes, "INT8", "front"]
    number = words.reasons(matrix)
    host = matrix["host"]
    lines = [
        f"# {safe(matrix['name'])}: the matrix",
        "",
        line(heads),
        line(["---"] * len(heads)),
        *(line(row_of(row, matrix, number)) for row in matrix["cells"]),
        "",
        *(f"- ({at}) {safe(reason)}" for reason, at in number.items()),
        "",
        *(f"{text}\n" for text in map(safe, words.notes(matrix))),
        f"Host: {safe(host['machine'])}, {host['cores']} cores. Data: `{matrix['data_sha256']}`.",
        "",
    ]
    return "\n".join(lines)
