"""Hashes of what goes in and what comes out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_known(path: Path, earlier: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """(sha256 of a file, stats to give back as `earlier`): hashed again only when size, mtime or inode differ."""
    found = path.stat()
    stat = {"path": str(path), "size": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}
    if earlier is not None and stat.items() <= earlier.items():
        return earlier["sha256"], {**stat, "sha256": earlier["sha256"]}
    sha256 = sha256_file(path)
    return sha256, {**stat, "sha256": sha256}


def sha256_files_known(
    root: Path, names: Iterable[str], earlier: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """(sha256 over names and bytes of files below `root`; a line of stats and hash for each, to give back)."""
    known = (earlier or {}).get("files", {}) if (earlier or {}).get("path") == str(root) else {}
    total, lines = hashlib.sha256(), {}
    for name in names:
        found = (root / name).stat()
        stat = f"{found.st_size} {found.st_mtime_ns} {found.st_ino} "
        line = known.get(name, "")
        lines[name] = line if line.startswith(stat) else stat + sha256_file(root / name)
        total.update(f"{name}\0{lines[name].rpartition(' ')[2]}\n".encode())
    return total.hexdigest(), {"path": str(root), "files": lines}


def sha256_tree(root: Path) -> str:
    """One hash over the names and bytes of all files below `root`, or of the one file that it is."""
    if root.is_file():
        return sha256_file(root)
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(root).as_posix()}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()


@cache
def code_sha256() -> str:
    """All of components/: used where a wrong reuse would be worse than a needless rerun."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def fingerprint(*parts: Any) -> str:
    """One hash over params (JSON), input files (Path) and Temper's code: equal means nothing has changed."""
    return _hash(code_sha256(), parts)


def fingerprint_cell(code: Iterable[str], *parts: Any) -> str:
    """As `fingerprint`, over these files of code only: a cell outlives a change of what it was not made with."""
    return _hash(" ".join(sha256_file(CHECKOUT / name) for name in code), parts)


def _hash(code: str, parts: Iterable[Any]) -> str:
    total = hashlib.sha256(code.encode())
    for part in parts:
        if isinstance(part, Path):
            total.update((sha256_tree(part) if part.exists() else "absent").encode())
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
        total.update(b"\n")
    return total.hexdigest()
