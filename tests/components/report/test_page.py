"""The page: self-contained, escaped, accessible, and nothing but a rendering of its two files."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from components.decide import decide
from components.params import Bounds, Policy
from components.report import page
from tests.components.matrices import EVIL, PIXEL, matrix

VOID = {"meta", "img", "wbr"}


class Tree(HTMLParser):
    """Every element with its attributes and parents; refuses what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), [name for name, _ in self.open]))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), [name for name, _ in self.open]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1][0] != "style":
            self.text += data

    def all(self, *tags: str) -> list[dict[str, Any]]:
        return [attributes for tag, attributes, _ in self.found if tag in tags]


def rendered(measured: dict[str, Any], **bounds: float) -> tuple[str, dict[str, Any]]:
    limits = Bounds(latency_ms=bounds.get("latency_ms"), size_mb=bounds.get("size_mb"))
    policy = Policy(metric="accuracy", margin=0.02, batch_size=1, objective="latency_ms", bounds=limits)
    decision = decide(measured, policy, {"version": 3, "digest": "x"}) | {"matrix_sha256": "0" * 64}
    return page.render(measured, decision), decision


@pytest.fixture(scope="module")
def whole() -> str:
    return rendered(matrix())[0]


def test_it_needs_nothing_from_outside(whole: str) -> None:
    tree = Tree(whole)
    assert not tree.all("script", "link", "iframe", "object", "form")
    for _, attributes, _ in tree.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"https?://|@import|url\(", whole)
    assert whole == rendered(matrix())[0]


@pytest.mark.hardening("E29", "script and handlers in rows and reasons: the page")
def test_texts_of_the_data_stay_texts(whole: str) -> None:
    assert EVIL not in whole
    assert Tree(whole).text.count(EVIL) >= 3  # a reason in two tables, a row's input
    images = Tree(whole).all("img")
    assert [image["src"] for image in images] == [PIXEL] * 11
    evil = matrix()
    evil["changed_rows"][1]["input"] = PIXEL + '" onerror="alert(1)'
    assert len(Tree(rendered(evil)[0]).all("img")) == 10


def test_all_of_it_is_there(whole: str) -> None:
    measured, (_, decision) = matrix(), rendered(matrix())
    text = Tree(whole).text
    for cell in measured["cells"]:
        assert text.count(cell["cell"]) >= 2
        assert cell["status"] == "ok" or cell["reason"] in text
        assert cell["sha256"] is None or cell["sha256"] in text
    for judged in decision["cells"].values():
        assert all(reason in text for reason in judged["reasons"])
    for row in measured["changed_rows"]:
        assert row["row_id"] in text
    for told in (decision["reason"], measured["data_sha256"], measured["host"]["machine"], "onnxruntime 1.32.0"):
        assert told in text
    assert "attention has no integer kernel" in text
    assert "not profiled" in text
    for told in ("100.0% equal, logit 1.2e-06, KL 1.0e-09", "[11, 14] of 5", "2, pinned to processors 0, 1"):
        assert told in text
    assert len(Tree(whole).all("table")) == 6 + 10  # layers of ten INT8 builds


def test_a_table_can_be_read_without_seeing_it(whole: str) -> None:
    tree = Tree(whole)
    ids = [attributes["id"] for _, attributes, _ in tree.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in tree.found:
        for target in (attributes.get("aria-labelledby") or "").split():
            assert target in ids
    for link in tree.all("a"):
        assert link["href"].removeprefix("#") in ids
    assert len(tree.all("caption")) == len(tree.all("table"))
    assert all(head["scope"] in ("col", "row") for head in tree.all("th"))
    assert all(image["alt"] for image in tree.all("img"))
    scrolls = [a for a in tree.all("div") if "scroll" in (a.get("class") or "").split()]
    assert scrolls
    for region in scrolls:
        assert (region["tabindex"], region["role"]) == ("0", "region")
        assert region.get("aria-labelledby") or region.get("aria-label")
    for tag, _, parents in tree.found:
        if tag == "table":
            assert "div" in parents
    plot = next(a for a in tree.all("svg") if a.get("role") == "img")
    assert plot["aria-labelledby"] == "plot-title plot-text"
    assert tree.all("html")[0]["lang"] == "en"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_texts_and_marks_stand_out_in_light_and_dark(whole: str, scheme: int) -> None:
    """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for what a drawing needs."""
    found = re.findall(r":root \{(.*?)\}", whole, re.S)
    assert len(found) == 2
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", found[scheme]))
    plain = {name: "#" + "".join(c * 2 for c in v[1:]) if len(v) == 4 else v for name, v in colours.items()}

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(plain[one]), luminance(plain[other])))
        return (high + 0.05) / (low + 0.05)

    for name in ("ink", "dim", "good", "bad", "open", "link", "limit"):
        assert contrast(name, "page") >= 4.5, name
        assert contrast(name, "panel") >= 4.5, name
    for number in range(8):
        assert contrast(f"c{number}", "page") >= 3, number


def test_the_nearest_miss_and_its_bound_are_shown() -> None:
    text = Tree(rendered(matrix(), latency_ms=0.035)[0]).text
    assert "Promote nothing" in text
    assert "Nearest miss: compact/fp32, blocked by policy.bounds.latency_ms:" in text
    assert "latency at most 0.035 ms" in text


def test_nothing_measured_is_said_in_words() -> None:
    empty = matrix()
    for cell in empty["cells"]:
        gone = {key: None for key in cell if key not in ("cell", "variant", "target", "kind", "pass", "parent")}
        tables = {
            key: {} for key in ("latency_ms", "latency", "speedup", "speedup_eager", "speed_verdict", "beaten_by")
        }
        cell |= gone | tables | {"status": "not measured", "reason": "no CUDA device", "parameters": 1}
    none = {"latency_ms": {}, "speedup": {}, "speed_verdict": {}, "speedup_eager": {}}
    empty |= {"front": [], "best": None, "changed_rows": [], "eager": none, "control": none | {"noise": {}}}
    text = " ".join(Tree(rendered(empty)[0]).text.split())
    assert "no cell meets the policy; none was measured: 18 not measured (no CUDA device)" in text
    assert "No cell is on the front, as none was measured in full: of 18 cells, 18 not measured." in text
    assert "No A/A control" in text
    assert "No build that was measured claims INT8." in text


def test_many_classes_leave_those_that_fell_most() -> None:
    many = matrix()
    for cell in many["cells"][:15]:
        cell["classes"] = {f"c{n}": {"rows": 3, "accuracy": 0.5, "change": -n / 100} for n in range(100)}
    text = Tree(rendered(many)[0]).text
    assert "76 classes that fell less are left out" in text
    assert "c99" in text
    assert "c75n = 3" not in text.replace("\n", "")


@pytest.mark.parametrize("verdict", ["faster", "cannot tell"])
def test_whether_it_is_faster_is_said_once(verdict: str) -> None:
    row = next(cell for cell in matrix()["cells"] if cell["speedup"].get("1"))
    told = page.speed({**row, "speed_verdict": {"1": verdict}}, "1", "")["small"][0]
    assert told.endswith(f"] {verdict}") and told.count(verdict) == 1
