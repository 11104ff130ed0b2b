"""What `temper doctor` finds of the workspace: DVC, git, params, keys, the champion and its journal."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components import host
from temper.findings import Finding

LEAST_DISK_GB = 2.0  # a digits run needs about half of it


def workspace() -> Iterator[Finding]:
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").exists()), None)
    if root is None or not (root / "params.yaml").exists():
        yield Finding("warn", "workspace", f"{here} is not inside one", "cd to a folder with params.yaml and dvc.yaml")
        root = here
    else:
        yield Finding("ok", "workspace", str(root))
        yield from _dvc_and_git(root)
        yield from _params(root)
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        yield Finding("fail", "writable", f"{root}: {error.strerror}", "make it yours, or work in a copy")
    free_gb = shutil.disk_usage(root).free / 1e9
    enough = free_gb >= LEAST_DISK_GB
    remedy = "" if enough else f"a run wants {LEAST_DISK_GB:.0f} GB; `temper gc` frees old results"
    yield Finding("ok" if enough else "fail", "disk", f"{free_gb:.0f} GB free", remedy)


def _dvc_and_git(root: Path) -> Iterator[Finding]:
    if not (root / ".dvc").is_dir():
        yield Finding("fail", "DVC", f"{root} is not initialised", "run `dvc init`")
    inside = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=root, capture_output=True, check=False)
    if inside.returncode:
        remedy = "git init && git add -A && git commit; versions then name the commit that made them"
        yield Finding("warn", "git", f"{root} is not in a repository", remedy)


def _params(root: Path) -> Iterator[Finding]:
    from components import params
    from components.errors import ParamsError

    try:
        loaded = params.load(root / "params.yaml")
    except ParamsError as error:
        yield Finding("fail", "params.yaml", f"mistakes: {len(error.errors)}", "\n".join(error.errors))
        return
    cells = len(loaded.variants) * len(loaded.targets)
    yield Finding(
        "ok",
        "params.yaml",
        f"{loaded.name}: {len(loaded.variants)} variants x {len(loaded.targets)} targets = {cells} cells",
    )
    if (data := getattr(loaded.source, "path", None)) and not (root / data).exists():
        remedy = "put the data there or correct the path; until then no run begins"
        yield Finding("fail", "data", f"source.path {data} is not there", remedy)
    cores = host.describe()["cores"]
    if loaded.threads > cores:
        remedy = f"set threads to at most {cores}; it changes the bytes of models, so do it before the first run"
        yield Finding("warn", "threads", f"params.yaml asks for {loaded.threads} on {cores} cores", remedy)
    with contextlib.chdir(root):
        yield from list(_signing(loaded.name, loaded.policy.signing.model_dump() if loaded.policy.signing else {}))


def _signing(name: str, policy: dict[str, Any]) -> Iterator[Finding]:
    """The keys, and whether the champion is as it was registered."""
    from components import package, registry, signing
    from components.errors import ParamsError, TemperError

    try:
        keys = signing.configured(policy)
    except ParamsError as error:
        yield Finding("fail", "signing", str(error))
        return
    if keys.verifies:
        does = "signs and verifies" if keys.private else "verifies; nothing is signed here without the private key"
        yield Finding("ok", "signing", f"key {keys.fingerprint} {does}")
    else:
        remedy = "`temper key` makes a pair: who can write to the store could then no longer change a version unseen"
        yield Finding("note", "signing", "no key: versions are unsigned", remedy)
    try:
        champion = registry.registered(name).aliases.get("champion")
        if champion is None:
            return
        with package.verified(name, champion, keys) as found:
            unsigned = found.signed == package.UNSIGNED
            remedy = "`temper sign` signs it with TEMPER_SIGNING_KEY" if unsigned else ""
            told = f"version {champion} is as it was registered, {found.signed}"
            yield Finding("note" if unsigned else "ok", "champion", told, remedy)
    except TemperError as error:
        said, _, remedy = str(error).partition("; ")
        yield Finding("fail", "champion", said, remedy)


def promotions() -> Iterator[Finding]:
    """Journal, aliases and the files behind them, of the model that params.yaml names."""
    from components import params, registry
    from components.errors import TemperError
    from components.rollback import troubles

    try:
        name = params.load().name
        wrong = list(troubles(name))
        champion = registry.registered(name).aliases.get("champion")
    except (TemperError, OSError) as error:
        yield Finding("warn", "promotions", f"cannot be checked: {' '.join(str(error).split())[:200]}")
        return
    for what, remedy in wrong:
        yield Finding("warn", "promotions", what, remedy)
    if not wrong:
        yield Finding(
            "ok", "promotions", f"{name}: " + (f"version {champion} is the champion" if champion else "none yet")
        )
