#!/usr/bin/env python3
"""Resolve pyproject.toml anew into constraints.txt, and write the hashes of every file that may be installed.

    .ci/lock.py [WHEEL...]   a WHEEL is another build of what is locked, as PyTorch's for processors: its hash is added

constraints.txt: the versions. requirements.lock: the same with hashes, but for what only PyTorch's CUDA build needs, in
requirements-cuda.lock, and what has no wheel, in requirements-source.lock. No index is named in any of them.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

CUDA = re.compile(r"(nvidia-(?!ml-py)|cuda-|triton==)")
SOURCE = re.compile(r"antlr4-python3-runtime==")
BUILDS = ("torch",)  # what has builds of other hashes elsewhere: those that were locked for this version stay
HEAD = "# Made by `make lock`, installed by .ci/setup\n"
Pins = dict[str, set[str]]  # {"name==version ; marker": hashes}


def resolved(out: Path, *options: str) -> None:
    words = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--extra", "dev"]
    words += ["--no-emit-index-url", "--no-header", *options, "pyproject.toml", "-o", str(out)]
    subprocess.run([str(Path(sys.executable).with_name(words[0])), *words[1:]], check=True)


def pins(text: str) -> Pins:
    found: Pins = {}
    for entry in re.split(r"(?m)^(?=\w)", "\n".join(re.findall(r"(?m)^(?!#).+$", text))):
        if entry.strip():
            pin, *hashes = re.split(r"\s*\\?\s*--hash=", entry.strip())
            found[pin.strip()] = set(hashes)
    return found


def add_builds(now: Pins, before: Pins, wheels: list[Path]) -> None:
    """Give a pin the hashes of its other builds. Raises SystemExit for a wheel of what is not locked."""
    for pin in now:
        if pin.partition("==")[0] in BUILDS:
            now[pin] |= before.get(pin, set())
    for wheel in wheels:
        name, version, *_ = wheel.name.split("-")
        wanted = f"{name.replace('_', '-')}=={version.partition('+')[0]}"
        matching = [pin for pin in now if pin.partition(" ")[0] == wanted]
        if not matching:
            sys.exit(f"{wheel}: {wanted} is not what is locked; leave it out")
        now[matching[0]].add(f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")


def write(path: Path, chosen: Pins) -> None:
    entries = [" \\\n    ".join([pin, *(f"--hash={h}" for h in sorted(hashes))]) for pin, hashes in chosen.items()]
    aside = path.with_suffix(".new")
    aside.write_text(HEAD + "\n".join(entries) + "\n", "utf-8")
    aside.replace(path)


def main(wheels: list[Path]) -> None:
    plain, hashed = Path("requirements.lock"), Path(".temper/hashed.txt")
    apart = {Path("requirements-cuda.lock"): CUDA, Path("requirements-source.lock"): SOURCE}
    resolved(Path("constraints.txt"))
    hashed.parent.mkdir(exist_ok=True)
    hashed.unlink(missing_ok=True)
    resolved(hashed, "--generate-hashes", "--no-annotate", "--constraint", "constraints.txt")
    now = pins(hashed.read_text("utf-8"))
    hashed.unlink()
    add_builds(now, pins(plain.read_text("utf-8")) if plain.exists() else {}, wheels)
    for path, names in apart.items():
        write(path, {pin: now.pop(pin) for pin in list(now) if names.match(pin)})
    write(plain, now)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
