"""What the smoke test runs in a clean process: a user's program, which has mlflow and none of Temper.

    python -I smoke_client.py PACKAGE QUESTION ROOM LIMITS PARENT

Loads the model in PACKAGE and writes ROOM/answered.npz with its `logits` (rows, classes) and `labels` (rows,) to the
rows in QUESTION, or to its own input example if there are none.
"""

import ctypes
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any


def bound(limits: dict[str, int], parent: int) -> None:
    """Take the limits before anything is loaded, and end with the parent (Linux)."""
    mega = 1 << 20
    for kind, most in (
        (resource.RLIMIT_AS, limits["memory_mb"] * mega),
        (resource.RLIMIT_FSIZE, limits["file_mb"] * mega),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    # The signal of the first limit tells what it was; that of the second cannot be caught.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"] + 5))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG; the parent may have died before it was set
        if os.getppid() != parent:
            sys.exit(1)


def rows_of(question: Path, model: Any) -> Any:
    import numpy as np
    import pandas as pd

    if (question / "texts.json").exists():
        return pd.DataFrame(json.loads((question / "texts.json").read_text("utf-8")))
    if (question / "images.npz").exists():
        with np.load(question / "images.npz", allow_pickle=False) as file:
            return file["images"]
    return model.input_example


def main(package: str, question: str, room: str, limits: str, parent: str) -> None:
    bound(json.loads(limits), int(parent))
    import mlflow
    import numpy as np

    model = mlflow.pyfunc.load_model(package)
    rows = rows_of(Path(question), model)
    logits = model.predict(rows, params={"output": "logits"})
    np.savez(Path(room, "answered.npz"), logits=logits, labels=model.predict(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
