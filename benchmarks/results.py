"""Where figures go: results/<name>.json with the machine and the date, and the Markdown table made from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("results")
LIBRARIES = ("torch", "onnxruntime", "dvc", "prefect", "mlflow")


def write(name: str, title: str, lines: Sequence[Mapping[str, Any]], notes: Sequence[str], out: Path = FOLDER) -> str:
    """Write both files, naming the script that ran, and return the Markdown.

    Every line has the same keys; floats are shown with two decimals.
    """
    from components.host import describe

    host, versions = describe(), {library: version(library) for library in LIBRARIES}
    date = datetime.now(UTC).date().isoformat()
    result = {"date": date, "host": host, "versions": versions, "lines": list(lines), "notes": list(notes)}
    told = ", ".join(f"{library} {number}" for library, number in versions.items())
    heads = list(lines[0])
    rows = [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in line.values()] for line in lines]
    table = ["| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows]]
    text = f"# {title}\n\n{date}, {host['machine']}, {host['cores']} cores; {told}. "
    text += (
        f"Made by benchmarks/{Path(sys.argv[0]).name}.\n\n"
        + "\n".join(table)
        + "\n\n"
        + "\n".join(f"- {n}" for n in notes)
        + "\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    (out / f"{name}.md").write_text(text, "utf-8")
    return text
