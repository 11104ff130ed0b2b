#!/usr/bin/env python3
"""Ask the advisory service of the package index about every locked version; needs the network.

Exit code 0: no known vulnerability but those waived in .ci/waivers.toml. 1: one more, or a waiver whose day has passed.
2: it cannot be told of all packages, as from a mirror that has no advisories. Never quietly clean.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

AUDITOR = "pip-audit==2.10.1"
LOCKS = ("requirements.lock", "requirements-cuda.lock", "requirements-source.lock")
WAIVERS = Path(".ci/waivers.toml")


def asked() -> list[dict[str, Any]]:
    """What the auditor says of every package."""
    words = [str(Path(sys.executable).with_name("uv")), "tool", "run", AUDITOR, "--no-deps", "--disable-pip"]
    words += ["--progress-spinner", "off", "--format", "json"]
    for lock in LOCKS:
        words += ["--requirement", lock]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(done.stderr[-2000:], file=sys.stderr)
        raise SystemExit(2) from None
    return found


def judged(
    packages: list[dict[str, Any]], waivers: list[dict[str, Any]], today: datetime.date
) -> tuple[int, list[str]]:
    """(exit code, lines to print)"""
    accepted = {(w["id"], w["package"]): w for w in waivers}
    unknown = sorted(p["name"] for p in packages if "skip_reason" in p)
    lines, found, used = [], False, set()
    for package in packages:
        for hole in package.get("vulns", []):
            names = {hole["id"], *hole.get("aliases", [])}
            waived = next((key for key in accepted if key[0] in names and key[1] == package["name"]), None)
            told = f"{package['name']} {package['version']}: {hole['id']}"
            fixed = f"fixed in {', '.join(hole.get('fix_versions', [])) or 'no version'}"
            if waived is None:
                lines.append(f"{told}, {fixed}")
            elif accepted[waived]["until"] < today:
                lines.append(f"{told}: its waiver ended on {accepted[waived]['until']}, {fixed}")
            else:
                used.add(waived)
                lines.append(f"{told}: waived until {accepted[waived]['until']}: {accepted[waived]['reason']}")
                continue
            found = True
    lines += [f"waiver {' of '.join(key)} is of no use any more: remove it" for key in accepted if key not in used]
    if unknown:
        lines.append(f"nothing is known of {len(unknown)} of {len(packages)} packages: {', '.join(unknown[:5])}")
    else:
        lines.append(f"{len(packages)} packages, {len(used)} waivers")
    return (1 if found else 2 if unknown else 0), lines


if __name__ == "__main__":
    code, said = judged(asked(), tomllib.loads(WAIVERS.read_text("utf-8")).get("waiver", []), datetime.date.today())
    print("\n".join(said))
    sys.exit(code)
