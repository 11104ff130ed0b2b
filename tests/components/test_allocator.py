"""Freed memory stays with the process: a big block that is taken again needs no new pages."""

import subprocess
import sys

import pytest

CHILD = """
import resource, sys
from components.allocator import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def faults():
    for _ in range(20):
        bytearray(40 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
print(-faults() + faults())
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_pages_of_a_big_block_come_once() -> None:
    assert faults("keep") < faults("plain") / 10
