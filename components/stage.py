"""How a function becomes a stage: `python -m components.stage make base data=work/data out=work/models/base`.

A stage is `components/<verb>.py` with `run(...) -> metrics`. The signature is the declaration: an argument
named after a section of params.yaml gets that section (`variant` the entry of the stage's item), `item`
the item, `log` and `cell` the recorder's methods, `previous` the last output if there is one, and a Path
the path given under its name on the command line. It reads only what it is given, writes only below
`out` and returns its metrics. ARTIFACTS, if the file has it, names what of `out` the tracked pipeline run shows.

Here: params, threads, the machine lock, the tracked record, metrics.json, and `out` made aside and renamed
when complete. A killed stage leaves its folder aside; the next run with the same inputs resumes from it.
"""

from __future__ import annotations

import csv
import fcntl
import importlib
import inspect
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components import ending, intact, record, redaction, registry, scratch
from components.disk import disk_faults
from components.errors import ParamsError, TemperError
from components.files import append_line, write_atomic
from components.hashing import fingerprint, sha256_file
from components.host import QUIET, WAITING, machine_lock

log = logging.getLogger("temper")

ASIDE = Path("work/aside")  # where outputs grow; same file system as where they go
# `benchmark` is alone on the machine: it waits for these, and they for it.
SHARED = ("make", "build", "engine", "evaluate", "champion")
LOCKS = {"benchmark": fcntl.LOCK_EX} | dict.fromkeys(SHARED, fcntl.LOCK_SH)
OURS = (".", ".dvc", ".dvc/cache", ".temper", "mlruns", "work")  # what is run, cached and kept
ALWAYS = {"observe", "promote"}  # not cached: tracked only if they have something to say, and kept fast
CHECKED = Path(".temper/params.json")  # params that were found to be right, as plain data


GRACE_S = 2.0  # to close the record and remove temporary files


def end_with_driver() -> None:
    """End this process soon after the dvc process that started it is gone (kill -9 leaves no orphan)."""
    driver = record.dvc_process()
    if driver is None:
        return

    def watch() -> None:
        while record.process_start(driver[0]) == driver[1]:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def follow_run() -> None:
    """Under plain `dvc repro`, let one process of its own track what the stages record, until dvc is gone.

    So no stage pays for importing MLflow, curves show while training runs, and a killed run is closed.
    """
    driver = record.dvc_process()
    if driver is None or "TEMPER_RUN" in os.environ:
        return
    log_path = Path(".temper/follow.log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("a") as output:
        subprocess.Popen(
            [sys.executable, "-m", "components.tracking", *map(str, driver)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def plain_params() -> dict[str, Any]:
    """params.yaml as plain data, checked: for stages that always run, since typed params take longer than they do."""
    path, rules = Path("params.yaml"), sorted(Path(__file__).with_name("params").glob("*.py"))
    known = " ".join([sha256_file(path) if path.exists() else "none", *map(sha256_file, rules)])
    if CHECKED.exists():
        checked = json.loads(CHECKED.read_text("utf-8"))
        if checked["of"] == known:
            values: dict[str, Any] = checked["params"]
            return values
    from components import params

    values = params.load().model_dump(mode="json", by_alias=True)
    write_atomic(CHECKED, json.dumps({"of": known, "params": values}))
    return values


def _arguments(
    run: Callable[..., Any], item: str | None, paths: Mapping[str, Path], always: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values to call `run` with, the params among them as plain data) for all but the paths."""
    names = set(inspect.signature(run).parameters) - set(paths) - {"previous", "log", "cell"}
    values: dict[str, Any] = {"item": item} if "item" in names else {}
    names -= {"item"}
    plain: dict[str, Any] = {}
    if always:
        everything = plain_params()
        plain = {name: everything[name] for name in sorted(names)}
        return values | plain, plain
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


def write_curve(steps_path: Path, out: Path) -> None:
    """The steps a stage logged, as a CSV that `dvc plots` draws; a resumed stage's earlier steps among them."""
    lines = steps_path.read_text("utf-8").splitlines() if steps_path.exists() else []
    # What was logged after the checkpoint that it resumed from comes twice, and equal.
    steps = {line["epoch"]: line for line in map(json.loads, lines)}
    columns = list(dict.fromkeys(name for row in steps.values() for name in row)) or ["epoch"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(steps[epoch] for epoch in sorted(steps))


def put_in_place(aside: Path, out: Path) -> None:
    """Make aside/out the output. A rename cannot replace a full folder, so the old one waits in aside/old."""
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside / "old", ignore_errors=True)
    if out.exists():
        out.rename(aside / "old")
    (aside / "out").rename(out)
    shutil.rmtree(aside)


def set_aside(aside: Path, out: Path, inputs: str) -> Path:
    """The folder in which an output grows: what a killed run with the same inputs left there, else empty."""
    if (aside / "old").exists() and not out.exists():  # killed while it was put in place
        (aside / "old").rename(out)
    mark = aside / "inputs.sha256"
    if not (mark.exists() and mark.read_text("utf-8") == inputs):
        shutil.rmtree(aside, ignore_errors=True)
    (aside / "out").mkdir(parents=True, exist_ok=True)
    write_atomic(mark, inputs)
    return aside / "out"


def refuse_open_folders() -> None:
    """Raises TemperError where every user of the machine could change code, results or models under our hands.

    A folder for a group is its owner's choice; one with the sticky bit keeps others' names apart.
    """
    for path in dict.fromkeys(folder / name for folder in (Path(), registry.root()) for name in OURS):
        mode = path.stat().st_mode if path.exists() else 0
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise TemperError(
                f"{path.resolve()}: everybody on this machine may write there (mode {stat.S_IMODE(mode):04o}), and so "
                f"change what runs and what is promoted; chmod -R o-w '{path.resolve()}'"
            )


def execute(stage: str, item: str | None, paths: dict[str, Path]) -> None:
    """Run one stage from the workspace's root and put its outputs in place."""
    module = importlib.import_module(f"components.{stage}")
    run = module.run
    out, metrics_path, curve_path = paths.pop("out", None), paths.pop("metrics", None), paths.pop("curve", None)
    values, plain = _arguments(run, item, {**paths, **({"out": out} if out else {})}, stage in ALWAYS)
    wanted = inspect.signature(run).parameters
    for name, path in paths.items():
        if name in wanted and not path.exists():
            raise TemperError(f"{stage}: {name}={path} does not exist; run `dvc repro` to make it")

    if stage not in ALWAYS:
        intact.check(path for name, path in paths.items() if name in wanted)
    recorder = record.Recorder(stage, item, flatten(plain)) if stage not in ALWAYS else None
    if recorder:
        follow_run()
    if "cell" in wanted:
        values["cell"] = recorder.cell if recorder else None

    aside = ASIDE / (f"{stage}@{item}" if item else stage)
    if out is not None:
        values["out"] = set_aside(aside, out, fingerprint(plain, *(path for _, path in sorted(paths.items()))))
        if "previous" in wanted:
            values["previous"] = out if out.exists() else None
    if "log" in wanted:

        def log_step(metrics: Mapping[str, float], step: int) -> None:
            if recorder:
                recorder.log(metrics, step)
            append_line(aside / "steps.jsonl", {"epoch": step, **metrics})

        values["log"] = log_step
    status = "FAILED"
    metrics: dict[str, float] = {}
    try:
        with machine_lock(LOCKS.get(stage), stage):
            metrics = run(**values, **paths) or {}
        ending.check()
        if curve_path:
            write_curve(aside / "steps.jsonl", curve_path)
        if metrics_path:
            write_atomic(metrics_path, json.dumps(metrics, indent=2, sort_keys=True) + "\n")
        if out is not None:
            put_in_place(aside, out)
        status = "FINISHED"
    except BaseException as error:
        if ending.told() or isinstance(error, KeyboardInterrupt | SystemExit):
            status = "KILLED"
        ending.check()
        raise
    finally:
        if recorder:
            flat = {name: value for name, value in flatten(metrics).items() if isinstance(value, int | float)}
            ended = status == "FINISHED"
            recorder.end(
                status,
                flat,
                [str(metrics_path)] if metrics_path and ended else [],
                [str(out / name) for name in getattr(module, "ARTIFACTS", ())] if out and ended else [],
            )


def main(arguments: list[str]) -> int:
    """Run the stage that the command line names. Exit codes: see components.errors."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    logging.getLogger().handlers[0].setFormatter(redaction.Formatter("%(message)s"))
    redaction.guard()
    for noisy in ("torch", "onnxscript", "onnx_ir", "great_expectations", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    ending.listen()
    end_with_driver()
    words = [word for word in arguments if "=" not in word]
    if not words or len(words) > 2:
        log.error(__doc__)
        return ParamsError.exit_code
    paths = {name: Path(path) for name, _, path in (word.partition("=") for word in arguments if "=" in word)}
    if words[0] not in LOCKS or LOCKS[words[0]] == fcntl.LOCK_SH:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)
    started = time.monotonic()
    try:
        with disk_faults(paths.get("out", Path.cwd())), scratch.private():
            refuse_open_folders()
            execute(words[0], words[1] if len(words) == 2 else None, paths)
    except TemperError as error:
        log.error("%s: %s", "@".join(words), error)
        return error.exit_code
    log.info("%s: done in %.1f s", "@".join(words), time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
