"""Data Docs as static HTML: the same bytes for the same result, no scripts, nothing from the network, data as text."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from components.quarantine import Finding

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
HEAD = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{font-family:sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse;margin:.5em 0}
td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left;vertical-align:top}.fail{color:#b00}</style>"""


def harmless(value: Any) -> Any:
    """JSON data made safe to render.

    Great Expectations writes data into its pages unescaped, takes `$` for a template and fails on infinity.
    """
    if isinstance(value, Mapping):
        return {harmless(key): harmless(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [harmless(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return html.escape(value).replace("$", "&#36;") if isinstance(value, str) else value


def clean(page: str) -> str:
    """A page of Great Expectations without its scripts, its addresses, its random ids."""
    page = re.sub(r"<script\b.*?</script>|<footer\b.*?</footer>|<link\b[^>]*>|<img\b[^>]*>", "", page, flags=re.DOTALL)
    ids: dict[str, str] = {}

    def tag(found: re.Match[str]) -> str:
        # Only inside tags: what the data say is escaped, and stays as it is.
        text = re.sub(r"\b(href|src)=([\"'])https?:.*?\2", "", found[0])
        text = re.sub(r"\son[a-z]+=([\"']).*?\1", "", text)  # of its own scripts, which are gone
        return re.sub(UUID, lambda uuid: ids.setdefault(uuid[0], f"part-{len(ids)}"), text)

    page = re.sub(r"(?s)<style\b.*?</style>", lambda style: re.sub(r"url\([^)]*\)", "none", style[0]), page)
    page = re.sub(r"<[^>]+>", tag, page)
    return page.replace("<head>", f"<head>{HEAD}", 1)


def index(findings: Sequence[Finding], stops: Sequence[str], counts: Mapping[str, int]) -> str:
    """The first page: every rule on one line, and why the data were refused, if they were."""

    def cells(tag: str, *values: object) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values) + "</tr>"

    table = "".join(
        cells("td", "ok" if f.success else "broken", f.rule, f.expectation.severity, f.breaches, f.notes)
        for f in findings
    )
    refused = "".join(f"<li>{html.escape(stop)}</li>" for stop in stops)
    return (
        f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>Data Docs</title>{HEAD}</head>'
        "<body><h1>Data Docs</h1>"
        f"<p>{html.escape(', '.join(f'{name}: {n}' for name, n in counts.items()))}</p>"
        + (f'<h2 class="fail">The data were refused</h2><ul>{refused}</ul>' if stops else "")
        + '<p><a href="columns.html">columns</a> <a href="rows.html">rows</a></p>'
        + f"<table>{cells('th', '', 'rule', 'severity', 'breaches', 'what it says')}{table}</table></body></html>\n"
    )
