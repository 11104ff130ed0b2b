"""A version's lineage as one HTML file: no script, font, link or clock; the template engine escapes every text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("lineage.html")


def render(lineage: Any) -> str:
    """The page of a `flows.lineage.Lineage`."""
    from jinja2 import Environment, StrictUndefined

    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return env.from_string(TEMPLATE.read_text("utf-8")).render(lineage=lineage)
