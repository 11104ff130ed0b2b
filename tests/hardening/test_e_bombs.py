"""A small file that unpacks to very much is refused or taken in, in less than 2 GiB and with one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hardening.bombs import BOMBS

MOST_MB = 2_048
SLOW = {"10,000 columns of CSV", "10,000 columns of Parquet", "rows of 2.5 GB", "3 GB of zeros in an archive"}
SAID = {
    "10,000 columns of CSV": "task.columns does not name this column",
    "10,000 columns of Parquet": "task.columns does not name this column",
    "200,000,000 rows": "has 200,000,000 rows in",
    "100,000 nested lists": "line 1: is not JSON",
}


@pytest.mark.hardening(
    "E28", "files that unpack to 2 to 200 GB, 10,000 columns, deep nesting: peak memory of the child"
)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.drill if name in SLOW else ()) for name in BOMBS]
)
def test_a_bomb_is_refused_in_bounded_memory(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    kind, make = BOMBS[name]
    make(tmp_path / f"bomb.{kind}")
    assert (tmp_path / f"bomb.{kind}").stat().st_size < 70e6
    words = [sys.executable, "tests/hardening/bombs.py", str(tmp_path), kind, str(tmp_path / f"bomb.{kind}")]
    root = Path(__file__).resolve().parents[2]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)}
    done = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    record_property("peak_mb", told["peak_mb"])
    assert told["peak_mb"] < MOST_MB, told
    assert SAID.get(name, "unpack to more than 1,536 MB at once") in told["said"], told
    assert told["said"].startswith("refused: ") and "Traceback" not in done.stderr


BOUND = """
from components.memory import at_most
try:
    with at_most(100):
        bytearray(200 << 20)
    raise SystemExit("no bound")
except MemoryError:
    pass
with at_most(400):
    bytearray(200 << 20)
bytearray(600 << 20)
"""


@pytest.mark.hardening("E28", "an allocation beyond the bound, and one after it")
def test_the_bound_ends_with_the_block(root: Path) -> None:
    """In a process of its own: one that has freed much has it still, and takes it from there."""
    done = subprocess.run([sys.executable, "-c", BOUND], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
