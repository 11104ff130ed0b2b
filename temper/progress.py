"""How a run is shown: one line a kind of stage in a terminal, one line an event where there is none."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Mapping

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.drive import LAST
from flows.runner import State

MARKS = {  # state: sign, style
    "waiting": ("·", "dim"),
    "running": ("●", "bold yellow"),
    "busy": ("●", "yellow"),
    "ran": ("✓", "green"),
    "cached": ("✓", "cyan"),
    "unchanged": ("✓", "dim green"),
    "failed": ("✗", "bold red"),
    "skipped": ("–", "dim red"),
}
ENDED = {"ran", "cached", "unchanged", "failed", "skipped"}


def expected_seconds(
    stages: Mapping[str, list[str]], known: Mapping[str, float], slots: int, elapsed: Mapping[str, float]
) -> float | None:
    """Seconds until the last of `stages` ({name: parents}) ends, `slots` at once; `elapsed` of those running.

    A stage that never ran is taken to need the median of its kind (make@...); None if that is unknown too.
    """
    needs: dict[str, float] = {}
    for name in stages:
        kind = [seconds for other, seconds in known.items() if other.partition("@")[0] == name.partition("@")[0]]
        if not kind:
            return None
        needs[name] = max(0.0, known.get(name, statistics.median(kind)) - elapsed.get(name, 0.0))
    ends: dict[str, float] = {}
    free = [0.0] * slots
    for name in sorted(stages, key=lambda stage: stage not in elapsed):  # stable: those running first, then in order
        ready = max((ends.get(parent, 0.0) for parent in stages[name]), default=0.0)
        ends[name] = max(ready, heapq.heappop(free)) + needs[name]
        heapq.heappush(free, ends[name])
    return max(ends.values(), default=0.0)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Watches a run (flows.drive.Watch). Use as a context manager; draws itself."""

    def __init__(self, console: Console, known: Mapping[str, float], slots: int) -> None:
        self._console, self._known, self._slots = console, known, slots
        self._began = time.monotonic()
        self._stale: dict[str, list[str]] = {}
        self._fresh = 0
        self._states: dict[str, tuple[str, float]] = {}  # state, when it began or seconds it took
        self._said = "looking at what changed"
        live = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(self, console=console, refresh_per_second=4, transient=False) if live else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            for name in self._stale:
                if self._states.get(name, ("waiting", 0.0))[0] not in ENDED:
                    self._states[name] = ("skipped", 0.0)
            self._said = ""
            self._live.stop()

    def planned(self, run: str, order: list[str], stale: dict[str, list[str]]) -> None:
        self._stale, self._fresh = stale, len(order) - len(stale) - 1
        self._said = ""
        work = [name for name in stale if name != LAST]
        words = f"{len(work)} of {len(order)} stages to run; this run is called {run}"
        self._line(words if work else "nothing changed")

    def stage(self, name: str, state: State, seconds: float, message: str) -> None:
        self._states[name] = (state, time.monotonic() if state == "running" else seconds)
        if state == "running":
            self._said = ""
            self._line(f"{name}: running")
        elif state == "failed":
            self._line(f"{name}: failed after {seconds:.1f} s: {message}")
        else:
            words = {
                "cached": "restored from the run cache",
                "unchanged": "unchanged",
                "busy": "DVC is busy; again soon",
            }
            self._line(f"{name}: {words.get(state, 'done')} ({seconds:.1f} s)")

    def note(self, text: str) -> None:
        self._said = text
        self._line(text)

    def _line(self, text: str) -> None:
        if not self._live:
            self._console.print(Text(f"{clock(time.monotonic() - self._began)}  {text}"), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        states = dict(self._states)
        kinds: dict[str, list[str]] = {}
        for name in [*states, *(name for name in self._stale if name not in states)]:
            kinds.setdefault(name.partition("@")[0], []).append(name)
        order = ["observe", *(name.partition("@")[0] for name in self._stale)]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        for kind in sorted(kinds, key=order.index):
            grid.add_row(
                kind, Text("  ").join(self._cell(name, states) for name in sorted(kinds[kind], key=self._rank))
            )
        yield Group(grid, *self._footer(states, options.max_width))

    def _rank(self, name: str) -> int:
        return list(self._stale).index(name) if name in self._stale else -1

    def _cell(self, name: str, states: Mapping[str, tuple[str, float]]) -> Text:
        state, figure = states.get(name, ("waiting", 0.0))
        seconds = time.monotonic() - figure if state == "running" else figure
        sign, style = MARKS[state]
        label = name.partition("@")[2]
        took = "" if state in ("waiting", "skipped") else f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
        word = state if state in ("cached", "failed", "skipped") else ""
        return Text(" ".join(part for part in (sign, label, took, word) if part), style=style)

    def _footer(self, states: Mapping[str, tuple[str, float]], width: int) -> list[Text | Table]:
        elapsed = clock(time.monotonic() - self._began)
        if not self._stale:
            return [Text(f"{self._said}  {elapsed}", style="dim")]
        ended = [name for name in self._stale if states.get(name, ("", 0.0))[0] in ENDED]
        left = {
            name: [parent for parent in parents if parent not in ended]
            for name, parents in self._stale.items()
            if name not in ended
        }
        now = time.monotonic()
        running = {name: now - at for name, (state, at) in states.items() if state == "running" and name in left}
        rest = expected_seconds(left, self._known, self._slots, running) if left else 0.0
        words = f"{len(ended)}/{len(self._stale)} stages  {elapsed}"
        if left:
            words += "  first run: no estimate yet" if rest is None else f"  about {clock(rest)} left"
        if self._fresh > 0:
            words += f"  {self._fresh} unchanged"
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(len(self._stale), len(ended), width=max(10, min(40, width // 3))), Text(words))
        return [bar, *([Text(self._said, style="dim")] if self._said else [])]
