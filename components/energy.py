"""Energy of an inference, where the machine has a counter: RAPL for the processor, NVML for a GPU.

A counter knows only its whole package or board, idle power included: what it says is true of a machine that does
nothing else, as benchmark's is.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import NotMeasured

POWERCAP = Path("/sys/class/powercap")
SECONDS = 0.5  # of calls between two readings: NVML's counter moves every tenth of a second
READINGS = 3


@dataclass(frozen=True)
class Counter:
    name: str
    read: Callable[[], list[int]]  # microjoules so far, of each domain
    wraps: list[int | None]  # at which each begins again at 0


def rapl(powercap: Path) -> Counter:
    """The processor's packages. Raises NotMeasured where the kernel shows none or keeps them for root."""
    packages = [
        folder
        for folder in sorted(powercap.glob("intel-rapl:*"))
        # Core and memory are parts of a package, psys is the whole machine.
        if re.fullmatch(r"intel-rapl:\d+", folder.name) and _text(folder / "name").startswith("package")
    ]
    if not packages:
        raise NotMeasured(
            f"no energy counter of the processor: {powercap} has no intel-rapl package; "
            f"run on a machine whose kernel shows one, a virtual one seldom does"
        )
    wraps: list[int | None] = [int(_text(folder / "max_energy_range_uj")) + 1 for folder in packages]

    def read() -> list[int]:
        return [int(_text(folder / "energy_uj")) for folder in packages]

    read()
    return Counter(f"RAPL {', '.join(_text(folder / 'name') for folder in packages)}", read, wraps)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise NotMeasured(
            f"the energy counter cannot be read: {path}: {error.strerror}; give this user the right to read it"
        ) from None


def nvml() -> Counter:
    """The first GPU. Raises NotMeasured where its library or the counter is missing."""
    try:
        import pynvml
    except ImportError:
        raise NotMeasured("no energy counter of the GPU: pip install nvidia-ml-py") from None
    try:
        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(device)
        name = pynvml.nvmlDeviceGetName(device)
    except pynvml.NVMLError as error:
        raise NotMeasured(f"no energy counter of the GPU: NVML says {error}; it takes a Volta or newer") from None

    def read() -> list[int]:
        return [int(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) * 1000]

    return Counter(f"NVML {name}", read, [None])


def found(device: bool, powercap: Path = POWERCAP) -> tuple[dict[bool, Counter], str]:
    """({whether on a device: its counter}, why one is missing); the GPU's is asked for only if `device`."""
    counters, missing = {}, []
    asked: dict[bool, Callable[[], Counter]] = {False: lambda: rapl(powercap)} | ({True: nvml} if device else {})
    for on_device, ask in asked.items():
        try:
            counters[on_device] = ask()
        except NotMeasured as error:
            missing.append(str(error))
    return counters, "; ".join(missing)


def spent_mj(before: list[int], after: list[int], wraps: list[int | None]) -> float:
    """Millijoules between two readings no further apart than a counter takes to begin again."""
    each = zip(before, after, wraps, strict=True)
    return sum((end - start) % wrap if wrap else end - start for start, end, wrap in each) / 1000


def per_row(
    calls: Mapping[str, tuple[Callable[[Mapping[str, np.ndarray]], Any], Counter]],
    inputs: Mapping[str, np.ndarray],
    size: int,
    seconds: float = SECONDS,
) -> dict[str, float | None]:
    """Millijoules of one row by cell, the median of readings taken in turn; None where the counter stood still."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(READINGS):
        for name, (call, counter) in calls.items():
            call(inputs)
            before, until, rows = counter.read(), time.perf_counter() + seconds, 0
            while time.perf_counter() < until:
                call(inputs)
                rows += size
            taken[name].append(spent_mj(before, counter.read(), counter.wraps) / rows)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {name: value if value > 0 else None for name, value in medians.items()}
