"""How a function becomes a stage: `python -m components.stage make base data=work/data out=work/models/base`.

A stage is `components/<verb>.py` with `run(...) -> metrics`. The signature is the declaration: an argument
named after a section of params.yaml gets that section (`variant` the entry of the stage's item), `item`
the item, `log` and `cell` the recorder's methods, `previous` the last output if there is one, and a Path
the path given under its name on the command line. It reads only what it is given, writes only below
`out` and returns its metrics.

Here: params, threads, the machine lock, the tracked record, metrics.json, and `out` made aside and renamed
when complete. A killed stage leaves its folder aside; the next run with the same inputs resumes from it.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import importlib
import inspect
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components import record
from components.errors import ParamsError, TemperError
from components.hashing import fingerprint

log = logging.getLogger("temper")

ASIDE = Path("work/aside")  # where outputs grow; same file system as where they go
QUIET = {  # everything phones home by default; nothing here may
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
# `benchmark` is alone on the machine: it waits for these, and they for it.
LOCKS = {"benchmark": fcntl.LOCK_EX, "make": fcntl.LOCK_SH, "build": fcntl.LOCK_SH, "engine": fcntl.LOCK_SH}
ALWAYS = {"observe", "promote"}  # not cached: tracked only if they have something to say


@contextlib.contextmanager
def machine_lock(stage: str) -> Iterator[None]:
    """Hold the machine-wide lock as this stage must; says so when it has to wait."""
    if stage not in LOCKS:
        yield
        return
    path = Path(tempfile.gettempdir()) / f"temper-machine-{os.getuid()}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, LOCKS[stage] | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting until %s is free", stage, path)
            fcntl.flock(file, LOCKS[stage])
        yield


def end_with_driver() -> None:
    """End this process when the dvc process that started it is gone (kill -9 leaves no orphan)."""
    driver = record.dvc_process()
    if driver is None:
        return

    def watch() -> None:
        while record.process_start(driver[0]) == driver[1]:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def write_atomic(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, "utf-8")
    aside.replace(path)


def _arguments(
    run: Callable[..., Any], item: str | None, paths: Mapping[str, Path]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values to call `run` with, the params among them as plain data) for all but the paths."""
    names = set(inspect.signature(run).parameters) - set(paths) - {"previous", "log", "cell"}
    values: dict[str, Any] = {"item": item} if "item" in names else {}
    names -= {"item"}
    plain: dict[str, Any] = {}
    if names:
        from components import params

        loaded = params.load()
        for name in sorted(names):
            if name == "variant":
                if item not in loaded.variants:
                    raise ParamsError([f"variants.{item}: there is no such variant in params.yaml"])
                values[name] = loaded.variants[item]
            else:
                values[name] = getattr(loaded, "validate_" if name == "validate" else name)
            section = values[name]
            if isinstance(section, dict):
                plain[name] = {key: entry.model_dump(by_alias=True) for key, entry in section.items()}
            else:
                plain[name] = section.model_dump(by_alias=True) if hasattr(section, "model_dump") else section
    return values, plain


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to one level with dotted keys, as trackers show params."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def write_curve(recorder_path: Path, out: Path) -> None:
    """The steps a stage logged, as a CSV that `dvc plots` draws."""
    rows = [json.loads(line) for line in recorder_path.read_text("utf-8").splitlines()]
    steps = [{"epoch": row["step"], **row["metrics"]} for row in rows if "step" in row]
    columns = list(dict.fromkeys(name for row in steps for name in row)) or ["epoch"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(steps)


def execute(stage: str, item: str | None, paths: dict[str, Path]) -> None:
    """Run one stage from the workspace's root and put its outputs in place."""
    run = importlib.import_module(f"components.{stage}").run
    out, metrics_path, curve_path = paths.pop("out", None), paths.pop("metrics", None), paths.pop("curve", None)
    values, plain = _arguments(run, item, {**paths, **({"out": out} if out else {})})
    wanted = inspect.signature(run).parameters
    for name, path in paths.items():
        if name in wanted and not path.exists():
            raise TemperError(f"{stage}: {name}={path} does not exist; run `dvc repro` to make it")

    recorder = record.Recorder(stage, item, flatten(plain)) if stage not in ALWAYS else None
    if "log" in wanted:
        values["log"] = recorder.log if recorder else None
    if "cell" in wanted:
        values["cell"] = recorder.cell if recorder else None

    aside = ASIDE / (f"{stage}@{item}" if item else stage)
    if out is not None:
        inputs = fingerprint(plain, *(path for _, path in sorted(paths.items())))
        mark = aside / "inputs.sha256"
        if not (mark.exists() and mark.read_text("utf-8") == inputs):
            shutil.rmtree(aside, ignore_errors=True)
        (aside / "out").mkdir(parents=True, exist_ok=True)
        write_atomic(mark, inputs)
        values["out"] = aside / "out"
        if "previous" in wanted:
            values["previous"] = out if out.exists() else None
    status = "FAILED"
    metrics: dict[str, float] = {}
    try:
        with machine_lock(stage):
            metrics = run(**values, **paths) or {}
        if out is not None:
            # A rename cannot replace a full folder; between these two lines a kill costs the old output only.
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            (aside / "out").rename(out)
            shutil.rmtree(aside)
        if metrics_path:
            write_atomic(metrics_path, json.dumps(metrics, indent=2, sort_keys=True) + "\n")
        if curve_path and recorder:
            write_curve(recorder.path, curve_path)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if recorder:
            flat = {name: value for name, value in flatten(metrics).items() if isinstance(value, int | float)}
            recorder.end(status, flat, [str(metrics_path)] if metrics_path and status == "FINISHED" else [])


def main(arguments: list[str]) -> int:
    """Run the stage that the command line names. Exit codes: see components.errors."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("torch", "onnxscript", "onnx_ir", "great_expectations", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    end_with_driver()
    words = [word for word in arguments if "=" not in word]
    if not words or len(words) > 2:
        log.error(__doc__)
        return ParamsError.exit_code
    paths = {name: Path(path) for name, _, path in (word.partition("=") for word in arguments if "=" in word)}
    started = time.monotonic()
    try:
        execute(words[0], words[1] if len(words) == 2 else None, paths)
    except TemperError as error:
        log.error("%s: %s", "@".join(words), error)
        return error.exit_code
    log.info("%s: done in %.1f s", "@".join(words), time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
