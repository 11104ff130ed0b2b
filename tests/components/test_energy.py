"""Energy is what the counters say, wrap-around and all; without one the reason says what would change that."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from components import energy
from components.errors import NotMeasured


def package(powercap: Path, number: int, name: str, microjoules: int, most: int = 10**9) -> Path:
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{value}\n", "utf-8")
    return folder


def test_packages_are_added_up_and_parts_of_them_are_not(tmp_path: Path) -> None:
    package(tmp_path, 0, "package-0", 1000)
    package(tmp_path, 1, "package-1", 500)
    package(tmp_path, 2, "psys", 9)
    core = tmp_path / "intel-rapl:0:0"
    core.mkdir()
    (core / "name").write_text("core", "utf-8")
    counter = energy.rapl(tmp_path)
    assert (counter.name, counter.read()) == ("RAPL package-0, package-1", [1000, 500])


def test_a_counter_may_begin_again() -> None:
    assert energy.spent_mj([900, 10], [100, 30], [1000, None]) == pytest.approx(0.22)


def test_without_a_counter_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="no intel-rapl package; "):
        energy.rapl(tmp_path)
    folder = package(tmp_path, 0, "package-0", 1)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # unreadable, for root too
    with pytest.raises(NotMeasured, match="give this user the right to read it"):
        energy.rapl(tmp_path)


def test_the_energy_of_a_row_is_that_of_the_calls(tmp_path: Path) -> None:
    """Each call of this cell burns 3 mJ; four rows share it. The counter begins again now and then."""
    counter_file = package(tmp_path, 0, "package-0", 5, most=100_000) / "energy_uj"

    def call(inputs: Mapping[str, np.ndarray]) -> None:
        counter_file.write_text(str((int(counter_file.read_text("utf-8")) + 3000) % 100_001), "utf-8")
        time.sleep(0.001)

    counter = energy.rapl(tmp_path)
    found = energy.per_row({"base/fp32": (call, counter)}, {}, 4, seconds=0.02)
    assert found["base/fp32"] == pytest.approx(0.75)
    assert energy.per_row({"still": (lambda inputs: None, counter)}, {}, 4, seconds=0.001) == {"still": None}


class FakeNvml(SimpleNamespace):
    class NVMLError(Exception):
        pass

    def __init__(self, supported: bool) -> None:
        def total(device: object) -> int:
            if not supported:
                raise self.NVMLError("Not Supported")
            return 7

        super().__init__(
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetTotalEnergyConsumption=total,
            nvmlDeviceGetName=lambda device: "H100",
        )


def test_a_gpu_counts_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(supported=True))
    counter = energy.nvml()
    assert (counter.name, counter.read()) == ("NVML H100", [7000])
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(supported=False))
    with pytest.raises(NotMeasured, match="NVML says Not Supported"):
        energy.nvml()


def test_only_devices_that_are_used_are_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    counters, reason = energy.found(device=False, powercap=tmp_path)
    assert counters == {} and "GPU" not in reason and "no energy counter of the processor" in reason
    assert "pip install nvidia-ml-py" in energy.found(device=True, powercap=tmp_path)[1]
    package(tmp_path, 0, "package-0", 1)
    counters, reason = energy.found(device=True, powercap=tmp_path)
    assert counters.keys() == {False} and "GPU" in reason
