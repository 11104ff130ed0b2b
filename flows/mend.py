"""After DVC has brought a stage's outputs from its cache: are they what dvc.lock names, and if not, from where else."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from components import intact, remote
from components.errors import TemperError

log = logging.getLogger("temper")


def spoilt(stage: str) -> str:
    """What is wrong with the outputs of a stage, in words; empty if nothing is.

    Corrupt objects were then set aside, and fetched anew if there is a remote that has them: DVC may run it again.
    """
    wrong = [(path, oid) for path, oid in intact.outputs(stage).items() if not intact.is_what(path, oid)]
    if not wrong:
        return ""
    said = "; ".join(intact.set_aside(path, oid) for path, oid in wrong)
    push = _push()
    if push or os.environ.get(remote.VARIABLE):
        try:
            log.info("%s: fetched from %s", stage, remote.bring(remote.Target.of(push), stage))
        except TemperError as error:
            log.warning("%s: is made again, as it cannot be fetched: %s", stage, error)
    return said


def _push() -> dict[str, Any] | None:
    from components import params

    try:
        return dict((params.read(Path("params.yaml")).get("policy") or {}).get("push") or {}) or None
    except (TemperError, AttributeError, ValueError):
        return None
