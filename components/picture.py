"""The matrix as a picture: accuracy against latency, what each cell weighs, and which cells are on the front."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Wong, Nature Methods 8, 441 (2011): told apart by colour-blind eyes too; yellow left out, it is lost on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F"]
MARKERS = ["o", "s", "D", "^", "v", "P", "X", "h"]
INK, FAINT, LIMIT = "#222222", "#9A9A9A", "#B00020"


def area(size_mb: float, largest_mb: float) -> float:
    """Marker area in points squared: in proportion to the size, but never too small to see."""
    return 40 + 240 * size_mb / largest_mb


def place(figure: Figure, axes: Axes, labels: Mapping[str, tuple[float, float, str]], points: list[Any]) -> None:
    """Put each text (x, y, colour) beside its point where it covers least of the other texts, points and edges."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    inside = axes.get_window_extent(renderer)
    dots = [axes.transData.transform(point) for point in points]
    taken: list[Any] = []
    offsets = [
        (dx, dy) for reach in (14, 24, 36, 52) for dx, dy in [(reach, 0), (-reach, 0), (0, reach), (0, -reach)]
    ] + [(dx, dy) for reach in (12, 22, 34, 48) for dx in (reach, -reach) for dy in (reach, -reach)]
    for text, (x, y, colour) in labels.items():
        note = axes.annotate(
            text,
            (x, y),
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            zorder=6,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.6, "shrinkA": 0, "shrinkB": 4},
        )
        best, least = offsets[0], float("inf")
        for dx, dy in offsets:
            note.set_position((dx, dy))
            note.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
            note.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
            note.update_positions(renderer)
            # The text's own box, without the line that leads to it.
            box = Text.get_window_extent(note, renderer).padded(3)
            cost = 6.0 * sum(box.overlaps(other) for other in taken)
            cost += 3.0 * sum(box.padded(6).contains(*dot) for dot in dots)
            cost += 20.0 * (box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1)
            cost += (abs(dx) + abs(dy)) / 100
            if cost < least:
                best, least, kept = (dx, dy), cost, box
        dx, dy = best
        note.set_position(best)
        note.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
        note.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
        taken.append(kept)


def draw(matrix: Mapping[str, Any], path: Path) -> None:
    """Accuracy against latency at the policy's batch size for the cells that are ok; bytes depend on nothing else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    size = str(matrix["batch_size"])
    rows = [row for row in matrix["cells"] if row["status"] == "ok" and size in row["latency_ms"]]
    figure = Figure(figsize=(10, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # measures texts; no window, no global state
    axes = figure.add_subplot()
    axes.set_title(
        f"{matrix['name']}: accuracy against latency, batch {size}", loc="left", fontsize=13, color=INK, weight="bold"
    )
    axes.set_title("↖ faster and more accurate", loc="right", fontsize=9, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#E6E6E6", lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"latency of a call, milliseconds (median of {matrix['rounds']} rounds)", color=INK)
    axes.set_ylabel(f"accuracy on {matrix['test_rows']:,} test rows", color=INK)
    if not rows:
        axes.text(0.5, 0.5, "no cell was measured", transform=axes.transAxes, ha="center", color=INK)
        figure.savefig(path, metadata={"Software": None})
        return

    variants = list(dict.fromkeys(row["variant"] for row in matrix["cells"]))
    targets = list(dict.fromkeys(row["target"] for row in rows))
    colour = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(variants)}
    marker = {name: MARKERS[at % len(MARKERS)] for at, name in enumerate(targets)}
    largest = max(row["size_mb"] for row in rows)
    points = {row["cell"]: (row["latency_ms"][size], row["accuracy"] * 100) for row in rows}
    reference = next((row for row in rows if row["cell"] == matrix["reference"]), None)
    front = matrix["front"]
    for row in sorted(rows, key=lambda row: (-row["size_mb"], row["cell"])):  # the small ones on top
        x, y = points[row["cell"]]
        ink = colour[row["variant"]]
        if reference and row is not reference:
            # Both intervals are of the paired comparison with the reference, drawn about the cell.
            _, low, high = row["speedup"][size]
            base_x, base_y = points[reference["cell"]]
            spread_x = [[max(x - base_x / high, 0)], [max(base_x / low - x, 0)]]
            spread_y = [
                [max(y - base_y - row["accuracy_low"] * 100, 0)],
                [max(min(base_y + row["accuracy_high"] * 100, 100) - y, 0)],
            ]
            axes.errorbar(x, y, spread_y, spread_x, fmt="none", ecolor=ink, alpha=0.35, lw=1, zorder=2)
        look: dict[str, Any] = {"marker": marker[row["target"]], "alpha": 0.85, "ec": "white", "lw": 0.8}
        if row["cell"] not in front:
            look |= {"facecolors": "none", "ec": ink, "lw": 1.2}
        axes.scatter(x, y, area(row["size_mb"], largest), zorder=4, **{"facecolors": ink} | look)
    xs = [x for x, _ in points.values()]
    if max(xs) / min(xs) > 4:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.margins(x=0.12, y=0.1)
    axes.set_xlim(axes.get_xlim())
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, min(top, 100 + (100 - bottom) * 0.03))  # room for a marker at 100 %, not for more

    limit = points[matrix["best"]][1] - matrix["margin"] * 100 if matrix["best"] in points else None
    if limit is not None:
        axes.axhspan(-100, limit, color=LIMIT, alpha=0.04, lw=0, zorder=0)
        axes.axhline(limit, color=LIMIT, lw=0.8, alpha=0.7, zorder=1)

    round_points: dict[str, Any] = {"ls": "", "marker": "o", "color": FAINT, "markeredgecolor": "white"}
    legend = [Line2D([], [], ls="", marker="o", color=colour[v], label=v) for v in variants]
    legend += [Line2D([], [], ls="", label=" ")]
    legend += [Line2D([], [], ls="", marker=marker[t], color=INK, label=t) for t in targets]
    legend += [Line2D([], [], ls="", label=" ")]
    for share in (0.25, 1.0):
        dot = area(largest * share, largest) ** 0.5
        legend.append(Line2D([], [], **round_points, markersize=dot, label=f"{largest * share:.2g} MB"))
    legend += [
        Line2D([], [], ls="", label=" "),
        Line2D([], [], **round_points, markersize=7, label="on the front:\nnothing dominates these"),
        Line2D([], [], ls="", marker="o", mfc="none", mec=FAINT, markersize=7, label="off it"),
        Line2D([], [], color=LIMIT, lw=0.8, alpha=0.7, label=f"best − {matrix['margin'] * 100:g} points"),
        Line2D([], [], color=FAINT, lw=1, label=f"{matrix['confidence']:.0%} interval\nto the reference"),
    ]
    figure.legend(handles=legend, loc="outside right upper", frameon=False, fontsize=8.5, labelspacing=0.85)

    figure.draw_without_rendering()
    named = list(dict.fromkeys([*front, matrix["reference"]]))
    labels = {
        cell + (" (reference)" if cell == matrix["reference"] else ""): (
            *points[cell],
            colour[cell.partition("/")[0]],
        )
        for cell in named
        if cell in points
    }
    place(figure, axes, labels, list(points.values()))
    figure.savefig(path, metadata={"Software": None})
