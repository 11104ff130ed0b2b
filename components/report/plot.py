"""The front as a plot: where everything goes, in the units of the page's drawing; page.html draws it.

Accuracy against latency at the policy's batch size; both intervals are of the paired comparison with the reference,
drawn about the cell, as in matrix.png.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.front import measured
from components.report import words

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 52  # margins
COLOURS = 8  # of the page's style, one a variant; then they come again
RING = 5  # about the point that was chosen
LETTER, LINE = 7.2, 15  # about the size of a letter, and of a line, in the page's font

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Axis:
    """From figures to the drawing's units."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies; beyond the ends, at them."""
        a, b, at = (math.log(v) if self.log else v for v in (self.low, self.high, max(value, 1e-12)))
        place = self.start + (at - a) / (b - a) * (self.end - self.start)
        return round(min(max(place, min(self.start, self.end)), max(self.start, self.end)), 1)

    def ticks(self) -> list[float]:
        """Round figures within the ends, about five."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 1e3 else (1,)
            found = [digit * 10.0**power for power in powers for digit in steps]
        else:
            rough = (self.high - self.low) / 5
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.7)
            first = math.ceil(self.low / step)
            found = [number * step for number in range(first, math.floor(self.high / step) + 1)]
        return [tick for tick in found if self.low <= tick <= self.high]


def shape(number: int, x: float, y: float, r: float) -> str:
    """The path of a marker, one a target: circle, square, diamond, triangles, hexagon."""
    corners: list[list[tuple[float, float]]] = [
        [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
        [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
        [(1.1, 0), (0.55, 0.95), (-0.55, 0.95), (-1.1, 0), (-0.55, -0.95), (0.55, -0.95)],
    ]
    if number % 6 == 0:
        return f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0z"
    points = [f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in corners[number % 6 - 1]]
    return f"M{'L'.join(points)}z"


def overlap(a: Box, b: Box) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def label(text: str, x: float, y: float, r: float, taken: list[Box], inside: Box) -> dict[str, Any]:
    """Where the name of a point of radius r covers least of what is there already; `taken` grows by it."""
    width = LETTER * len(text)
    found: list[tuple[float, float, float, str, Box]] = []
    for reach in (r + 4, r + 14, r + 26, r + 40, r + 56):
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (0.8, -0.8), (-0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)):
            at_x, at_y = x + dx * reach, y + dy * reach
            left = at_x - (0 if dx > 0 else width if dx < 0 else width / 2)
            box = (left, at_y - LINE / 2, left + width, at_y + LINE / 2)
            cost = sum(overlap(box, other) for other in taken) + 2 * (width * LINE - overlap(box, inside)) + reach
            found.append((cost, at_x, at_y, "start" if dx > 0 else "end" if dx < 0 else "middle", box))
    _, at_x, at_y, anchor, box = min(found)
    taken.append(box)
    led = math.dist((x, y), (at_x, at_y)) > r + 12
    return {"text": text, "x": at_x, "y": at_y, "anchor": anchor, "line": led, "from_x": x, "from_y": y}


def along(text: str, y: float, taken: list[Box], inside: Box) -> dict[str, Any]:
    """Where the words of a line across the plot cover least of what is there already; `taken` grows by them."""
    width = LETTER * len(text)
    found: list[tuple[float, int, str, Box]] = []
    for left, anchor in ((inside[2] - 4 - width, "end"), (inside[0] + 4, "start")):
        for below in (False, True):
            box = (left, y + 2, left + width, y + 2 + LINE) if below else (left, y - 2 - LINE, left + width, y - 2)
            cost = sum(overlap(box, other) for other in taken) + 2 * (width * LINE - overlap(box, inside))
            found.append((cost, len(found), anchor, box))
    *_, anchor, box = min(found)
    taken.append(box)
    return {"text": text, "x": box[2] if anchor == "end" else box[0], "y": box[3] - 4, "anchor": anchor}


def spread(row: Mapping[str, Any], reference: Mapping[str, Any] | None, size: str) -> dict[str, tuple[float, float]]:
    """Ends of the intervals in the figures' units: latency_ms and accuracy; none for the reference itself."""
    if reference is None or row is reference or size not in row["speedup"] or row["accuracy_low"] is None:
        return {}
    _, low, high = row["speedup"][size]
    base_ms, base = reference["latency_ms"][size], reference["accuracy"]
    ends = (min(base + row["accuracy_low"], row["accuracy"]), min(max(base + row["accuracy_high"], row["accuracy"]), 1))
    own = row["latency_ms"][size]
    return {"latency_ms": (min(base_ms / high, own), max(base_ms / low, own)), "accuracy": ends}


def axes(rows: list[Mapping[str, Any]], spreads: list[dict[str, tuple[float, float]]], size: str) -> tuple[Axis, Axis]:
    xs = [row["latency_ms"][size] for row in rows] + [end for ends in spreads for end in ends.get("latency_ms", ())]
    ys = [row["accuracy"] for row in rows] + [end for ends in spreads for end in ends.get("accuracy", ())]
    log = max(xs) / min(xs) > 4
    more = (max(xs) / min(xs)) ** 0.06 if log else (max(xs) - min(xs)) * 0.06 or max(xs) * 0.1
    ends = (min(xs) / more, max(xs) * more) if log else (max(min(xs) - more, min(xs) / 2), max(xs) + more)
    room = (max(ys) - min(ys)) * 0.08 or 0.01
    x = Axis(*ends, LEFT, WIDTH - RIGHT, log)
    return x, Axis(max(min(ys) - room, -room), min(max(ys) + room, 1 + room / 2), HEIGHT - BOTTOM, TOP)


def drawing(matrix: Mapping[str, Any], decision: Mapping[str, Any]) -> dict[str, Any] | None:
    """Points, axes, names and limits; None if nothing was measured."""
    size = str(matrix["batch_size"])
    rows = [row for row in matrix["cells"] if measured(row, size)]
    if not rows:
        return None
    reference = next((row for row in rows if row["cell"] == matrix["reference"]), None)
    variants = list(dict.fromkeys(row["variant"] for row in matrix["cells"]))
    targets = list(dict.fromkeys(row["target"] for row in rows))
    spreads = [spread(row, reference, size) for row in rows]
    x, y = axes(rows, spreads, size)
    largest = max(row["size_mb"] for row in rows)
    radius: Callable[[float], float] = lambda mb: round(4 + 8 * math.sqrt(mb / largest), 1)  # noqa: E731
    winner = (decision.get("winner") or {}).get("cell")
    points = []
    for row, ends in sorted(zip(rows, spreads, strict=True), key=lambda pair: -pair[0]["size_mb"]):
        at_x, at_y, r = x(row["latency_ms"][size]), y(row["accuracy"]), radius(row["size_mb"])
        figures = f"{row['accuracy'] * 100:.1f} %, {words.figure(row['latency_ms'][size])} ms"
        points.append(
            {
                "cell": row["cell"],
                "name": row["cell"] + (" (reference)" if row is reference else ""),
                "told": f"{row['cell']}: {figures}, {words.figure(row['size_mb'])} MB",
                "path": shape(targets.index(row["target"]), at_x, at_y, r),
                "x": at_x,
                "y": at_y,
                "r": r,
                "colour": variants.index(row["variant"]) % COLOURS,
                "front": words.on_front(row),
                "chosen": row["cell"] == winner,
                "across": [x(end) for end in ends["latency_ms"]] if ends else None,
                "up": [y(end) for end in ends["accuracy"]] if ends else None,
            }
        )
    named = [p for p in points if p["front"] or p["chosen"] or p["cell"] == matrix["reference"]]
    taken: list[Box] = [(p["x"] - p["r"], p["y"] - p["r"], p["x"] + p["r"], p["y"] + p["r"]) for p in points]
    inside = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    best = next((row["accuracy"] for row in rows if row["cell"] == matrix["best"]), None)
    bound = ((decision.get("policy") or {}).get("bounds") or {}).get("latency_ms")
    floor = best - matrix["margin"] if best is not None else None
    at_floor = y(floor) if floor is not None and y.low < floor < y.high else None
    floor_text = f"best − {matrix['margin'] * 100:g} points"
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "inside": inside,
        "points": points,
        "floor": {"at": at_floor, **along(floor_text, at_floor, taken, inside)} if at_floor is not None else None,
        "labels": [label(p["name"], p["x"], p["y"], p["r"] + RING * p["chosen"], taken, inside) for p in named],
        "ring": RING,
        "x_ticks": [{"at": x(tick), "text": f"{tick:g}"} for tick in x.ticks()],
        "y_ticks": [{"at": y(tick), "text": f"{tick * 100:g} %"} for tick in y.ticks()],
        "bound": x(bound) if bound is not None and x.low < bound < x.high else None,
        "variants": [{"name": name, "colour": at % COLOURS} for at, name in enumerate(variants)],
        "targets": [{"name": name, "path": shape(at, 8, 8, 6)} for at, name in enumerate(targets)],
    }
