"""Another library's environment beside the pinned one: it sees all that is here, and changes none of it.

`python benchmarks/environment.py NAME PACKAGE...` makes .temper/benchmarks/NAME and prints its interpreter.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".temper/benchmarks"


def beside(name: str, packages: Sequence[str], folder: Path = FOLDER) -> Path:
    """The interpreter of an environment with these packages besides ours, made where there is none yet.

    What is installed here is pinned: pip fails where a package wants another version of it.
    """
    place, ready = folder / name, folder / name / "ready"
    python = place / "bin/python"
    if ready.exists() and ready.read_text("utf-8").split() == list(packages):
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    site = next((place / "lib").glob("python*/site-packages"))
    (site / "beside.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", "utf-8")
    pins = place / "pins.txt"
    here = {found.metadata["Name"]: found.version for found in distributions() if found.metadata["Name"]}
    pins.write_text("".join(f"{package}=={number}\n" for package, number in sorted(here.items())), "utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(pins)]
    subprocess.run([*pip, *packages], check=True)
    ready.write_text("\n".join(packages) + "\n", "utf-8")
    return python


if __name__ == "__main__":
    print(beside(sys.argv[1], sys.argv[2:]))
