"""What one stage may take: time, memory, disk. Going over ends that stage, and no other."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from components import params
from components.errors import ParamsError
from flows.limits import GB, resident_bytes, written_bytes
from flows.runner import Runner, StageFailed

HUNGRY = "python -c \"import time; x = bytearray(400_000_000); print('has it', flush=True); time.sleep(60)\""
WRITER = "mkdir -p work/aside/writer && head -c 30000000 /dev/zero > work/aside/writer/x && echo wrote && sleep 60"
MODEST = "sleep 3 && echo modest"


@pytest.mark.hardening("L64", "a stage takes more memory, or writes more, than its limit, beside one that does not")
@pytest.mark.parametrize(
    ("name", "command", "limits", "words"),
    [
        ("hungry", HUNGRY, {"memory_gb": 0.3}, "GB of memory and was killed with all it had started: limits.memory_gb"),
        ("writer", WRITER, {"disk_gb": 0.02}, "to work/aside/writer and was killed with all it had started: limits.d"),
    ],
)
def test_a_stage_that_takes_too_much_is_ended_alone(
    name: str, command: str, limits: dict[str, float], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = Runner("test", 2, 2, lambda *_: None, 600, limits=limits)
    beside: list[Any] = []
    thread = threading.Thread(target=lambda: beside.append(runner.stage("modest", MODEST)))
    thread.start()
    started = time.monotonic()
    with pytest.raises(StageFailed, match=words) as failed:
        runner.stage(name, command)
    assert "its last lines:" in failed.value.reason or "it said nothing" in failed.value.reason
    thread.join(60)
    assert beside == ["ran"] and list(runner.failed) == [name]
    assert time.monotonic() - started < 300


@pytest.mark.hardening("L64", "what is counted is what is taken")
def test_what_is_counted(tmp_path: Path) -> None:
    import os

    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"\0" * 12_345)
    assert 12_345 <= written_bytes(tmp_path) < 100_000 and written_bytes(tmp_path / "none") == 0
    assert 0.01 < resident_bytes(os.getpid()) / GB < 50 and resident_bytes(2**22 + 1) == 0


@pytest.mark.hardening("L64", "limits are checked with the rest of params.yaml")
def test_limits_in_params(root: Path) -> None:
    raw = params.read(root / "params.yaml")
    assert params.check(raw).limits is None
    found = params.check({**raw, "limits": {"memory_gb": 8.0}}).limits
    assert found is not None and found.model_dump() == {"memory_gb": 8.0, "disk_gb": None}
    with pytest.raises(ParamsError, match=r"limits\.memory_gb"):
        params.check({**raw, "limits": {"memory_gb": 0.0}})
