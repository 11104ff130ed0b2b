"""What the data say stays text in every report: no element, no script, no handler comes of it."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import validate
from components.params import Bounds, Expectation, Policy, TextClassification, TextColumns, Validate, WordPiece
from components.report import lineage, page
from tests.components.matrices import matrix

MARK = "wicked"
EVIL = (
    f"<script>document.title='{MARK}'</script><img src=x onerror=\"document.title='{MARK}'\">"
    f"<svg onload=\"document.title='{MARK}'\"></svg></style></title></td>"
    f"<a href=\"javascript:document.title='{MARK}'\">x</a>"
    f'{{{{ 7*7 }}}} ${{7*7}} \'" onmouseover="{MARK}'
)


class Elements(HTMLParser):
    """The names of all elements and of all attributes, and where addresses lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action", "xlink:href")]


def inert(text: str) -> None:
    found = Elements(text)
    assert not found.tags & {"script", "iframe", "object", "embed", "form", "base", "link"}, found.tags
    assert not found.handlers
    leads = ("javascript", "http", "//", "data:text")
    assert not [address for address in found.addresses if address.strip().lower().startswith(leads)]
    assert "&lt;script&gt;" in text, "what the data say is shown, as text"


def data_docs(folder: Path) -> dict[str, str]:
    """Data Docs of texts in which class names, column names, texts and splits are markup."""
    raw, out = folder / "raw", folder / "out"
    raw.mkdir(), out.mkdir()
    texts = [f"{EVIL} {i}" for i in range(20)]
    labels = [EVIL if i % 2 else "b" for i in range(18)] + ["<img src=x onerror=alert(1)>", EVIL + "2"]
    columns = {"text": texts, "label": labels, EVIL: labels}
    pq.write_table(pa.table(columns), raw / "data.parquet")
    task = TextClassification(
        kind="text_classification",
        columns=TextColumns(text="text", label="label", key=None, ignored=None),
        classes=["b", "c"],
        max_tokens=16,
        max_characters=10_000,
        tokenizer=WordPiece(kind="wordpiece", vocabulary=128, lowercase=True),
    )
    rule = Expectation(
        expect="expect_column_values_to_match_regex",
        severity="quarantine",
        arguments={"column": "label", "regex": "^b$", "notes": EVIL},
    )
    rules = Validate(min_rows=5, max_quarantined_share=1.0, max_duplicate_share=1.0, expectations=[rule])
    with pytest.raises(Exception, match="does not name this column"):
        validate.run(task, rules, raw, out)
    return {path.name: path.read_text("utf-8") for path in (out / "docs").iterdir()}


def matrix_page() -> str:
    from components.decide import decide

    found = matrix()
    for row in found["changed_rows"]:
        row |= {"input": EVIL, "label": EVIL, "reference": EVIL}
        row["cells"] = {cell: EVIL for cell in row["cells"]}
    for row in found["cells"]:
        if row["classes"]:
            row["classes"] = {f"{EVIL} {i}": value for i, value in enumerate(row["classes"].values())}
        row["reason"] = row["reason"] and EVIL
    found["host"]["machine"] = EVIL
    policy = Policy(
        metric="accuracy",
        margin=0.02,
        batch_size=1,
        objective="latency_ms",
        bounds=Bounds(latency_ms=None, size_mb=None),
    )
    decision = decide(found, policy, {"version": 3, "digest": "x"}) | {"matrix_sha256": "0" * 64, "reason": EVIL}
    return page.render(found, decision)


def lineage_page() -> str:
    from flows.lineage import Lineage, Move, Step

    step = Step(EVIL, EVIL, {EVIL: EVIL})
    return lineage.render(Lineage(EVIL, 1, [step], [EVIL], [Move(EVIL, EVIL, EVIL)], [EVIL]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    docs = data_docs(tmp_path_factory.mktemp("docs"))
    return {**docs, "matrix.html": matrix_page(), "lineage.html": lineage_page()}


@pytest.mark.hardening(
    "E29", "script, handlers and templates as texts, labels and column names: Data Docs, page, lineage"
)
def test_pages_hold_no_markup_of_the_data(pages: dict[str, str]) -> None:
    assert set(pages) == {"index.html", "columns.html", "rows.html", "matrix.html", "lineage.html"}
    for text in pages.values():
        inert(text)
        assert "49" not in text or "7*7" in text, "no template of the data was computed"


@pytest.mark.hardening("E29", "the same, opened in a browser")
@pytest.mark.drill
def test_nothing_runs_in_a_browser(pages: dict[str, str], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is at hand: install chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    control = f"<title>x</title><img src=x onerror=\"document.title='{MARK}'\">"
    for name, text in {"control": control, **pages}.items():
        path = tmp_path / f"{name}.html"
        path.write_text(text, "utf-8")
        done = subprocess.run([browser, *options, path.as_uri()], capture_output=True, text=True, timeout=120)
        assert (f"<title>{MARK}</title>" in done.stdout) == (name == "control"), name


@pytest.mark.hardening(
    "E29", "the same in Prefect's artifact and matrix.md, by a Markdown parser that lets HTML through"
)
def test_markdown_holds_no_markup_of_the_data() -> None:
    markdown_it = pytest.importorskip("markdown_it")
    from flows import story
    from flows.outcome import Outcome

    found = matrix()
    found["host"]["machine"] = EVIL
    for row in found["cells"]:
        row["reason"] = row["reason"] and EVIL
    judged = {"feasible": False, "reasons": [EVIL], "misses": [EVIL]}
    decision = {"action": "keep", "reason": EVIL, "cells": {"base/fp32": judged}, "winner": None}
    outcome = Outcome(run="run", promotion=EVIL)
    text = story._decision(found, decision, outcome)
    parsed = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    inert(parsed)
    assert "<a " not in parsed and "<img" not in parsed
