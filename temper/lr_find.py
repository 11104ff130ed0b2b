"""`temper lr-find`: a learning rate for a variant, from a range test on the workspace's own data."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from components import params
from components.errors import ParamsError, TemperError
from components.files import write_atomic
from components.host import QUIET, WAITING, machine_is_taken, machine_lock
from components.lr_find import DIVERGED, SMOOTHING, Point, RangeTest, Suggestion, run, suggest
from flows import dvc
from flows.drive import FIRST
from temper import workspace

OUT = Path(".temper/lr-find")
DATA, MODELS = Path("work/data/prepared"), Path("work/models")
ROWS = 12  # of the table


def lr_find(name: str | None, lowest: float, highest: float, steps: int) -> None:
    """Run the test, write its curve, say what it suggests. Raises ParamsError, and TemperError if `make` is due."""
    checked = params.load()
    name = name or next(iter(checked.variants))
    if name not in checked.variants:
        known = ", ".join(checked.variants)
        raise ParamsError([f"{name}: there is no such variant in params.yaml; it can be one of: {known}"])
    if lowest >= highest:
        raise ParamsError([f"--lowest: must be below --highest, got {lowest:g} and {highest:g}"])
    variant, console = checked.variants[name], workspace.console()
    _require(variant.parent)
    for key, value in (QUIET | WAITING).items():
        os.environ.setdefault(key, value)

    console.print(
        f"{name}: {variant.kind} from {variant.parent}, {variant.fit.optimizer.kind}, batches of "
        f"{variant.fit.batch_size}; up to {steps} steps from {lowest:g} to {highest:g}",
        highlight=False,
    )
    if machine_is_taken():
        console.print(Text("a benchmark is alone on the machine; waiting until it is done", "yellow"))
    live = console.is_terminal and not console.is_dumb_terminal
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with machine_lock(fcntl.LOCK_SH, "lr-find"), Progress(*columns, console=console, disable=not live) as progress:
        bar = progress.add_task("importing", total=steps)

        def watch(point: Point) -> None:
            words = f"learning rate {point.learning_rate:.2e}  loss {point.smoothed:.4g}"
            progress.update(bar, advance=1, description=words)

        test = RangeTest(lowest, highest, steps, watch)
        run(variant, checked.seed, checked.threads, test, steps, data=DATA, parent=MODELS / variant.parent)
    found = suggest(test.points)
    _write(name, test.points)
    _draw(OUT / f"{name}.png", name, test.points, found)
    _tell(console, name, variant.fit.optimizer.lr, test, found)


def _require(parent: str) -> None:
    """Refuse a parent or data that are missing or out of date."""
    maker = "init" if parent == "init" else f"make@{parent}"
    stale = dvc.patiently(dvc.plan).stale(apart=FIRST)
    due = next((stage for stage in ("prepare", maker) if stage in stale), None)
    if due:
        what = "work/data/prepared" if due == "prepare" else f"work/models/{parent}"
        raise TemperError(f"{what} is missing or out of date (stage {due}); make it with: dvc repro {maker}")


def _write(name: str, points: list[Point]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "learning_rate", "loss", "smoothed_loss"])
    writer.writerows([step, p.learning_rate, p.loss, p.smoothed] for step, p in enumerate(points))
    write_atomic(OUT / f"{name}.csv", text.getvalue())


def _draw(path: Path, name: str, points: list[Point], found: Suggestion | None) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rates, losses, smoothed = zip(*((p.learning_rate, p.loss, p.smoothed) for p in points), strict=True)
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, color="#9A9A9A", linewidth=0.7, label="loss of each step")
    axes.plot(rates, smoothed, color="#0072B2", linewidth=1.8, label="smoothed")
    if found:
        tenth = found.minimum / 10
        axes.axvline(found.steepest, color="#D55E00", label=f"suggested: steepest descent, {found.steepest:.2g}")
        axes.axvline(tenth, color="#009E73", linestyle="--", label=f"a tenth of the minimum, {tenth:.2g}")
    # What diverges would flatten all the rest.
    low, high = min(losses), max(smoothed[: len(smoothed) // 2 + 1])
    axes.set_ylim(low - 0.1 * (high - low) - 1e-9, high + 0.5 * (high - low) + 1e-9)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (log)")
    axes.set_ylabel("training loss")
    axes.set_title(f"learning-rate range test of {name}: {len(points)} steps", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, which="major")
    axes.legend(fontsize=8, frameon=False)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    FigureCanvasAgg(figure).print_png(aside)
    aside.replace(path)


def _tell(console: Console, name: str, now: float, test: RangeTest, found: Suggestion | None) -> None:
    points = test.points
    table = Table("learning rate", "loss", "smoothed", box=None, padding=(0, 2), header_style="dim")
    for at in sorted({round(i * (len(points) - 1) / (ROWS - 1)) for i in range(ROWS)}):
        table.add_row(f"{points[at].learning_rate:.2e}", f"{points[at].loss:.4f}", f"{points[at].smoothed:.4f}")
    console.print(table)
    last = points[-1].learning_rate
    ended = f"the loss diverged at {last:.2g} (over {DIVERGED:g} times the best)" if test.diverged else "to the end"
    console.print(Text(f"{len(points)} steps, {ended}; smoothing {SMOOTHING:g}", "dim"))
    if found is None:
        console.print(
            Text(
                "No suggestion: the loss hardly falls anywhere. Look at the curve; more --steps, a larger batch or, "
                "for a variant that is trained already, a rate well below where the curve rises.",
                "yellow",
            ),
            soft_wrap=True,
        )
    else:
        where = f"variants.{name}.fit.optimizer.lr"
        console.print(
            Text.assemble(
                ("suggested: ", "bold"),
                (f"{found.steepest:.2g}", "bold green"),
                f", where the loss falls fastest; a tenth of the minimum would be {found.minimum / 10:.2g}",
            ),
            soft_wrap=True,
        )
        console.print(f"in params.yaml: {where}: {found.steepest:.2g}  (now {now:g})", soft_wrap=True, highlight=False)
        console.print(f"or try it:      dvc exp run -S {where}={found.steepest:.2g}", soft_wrap=True, highlight=False)
    console.print(Text(f"the curve: {OUT / name}.png, .csv", "dim"))
