"""The smoke test of a version: the registry's own files, loaded and asked by a clean process as a user's would be.

The files are copied into a new folder that only we may enter, verified (`components.package`), and loaded by plain
mlflow.pyfunc with the loader that ships, by a Python that sees neither our environment nor our folder and has limits of
memory, processor time, file size and wall time. It is asked the rows of the evaluation's first batch, raw.

The answers must be those evaluated. On the processor that evaluated them they are equal to the last bit, whatever the
number of threads (tests/components/test_smoke.py); other processors add in another order, which moves float32 logits
by some 1e-5 of their range. TOLERANCE leaves room for a hundred times that, and a wrong file, tokenizer, scale or
order of classes moves them by a thousand times TOLERANCE.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import package, registry, tracking, versions
from components.errors import TemperError

ROWS = 32  # of one batch, answers.BATCH_SIZE: dynamic INT8 takes its scales from the batch
TOLERANCE = 1e-3  # of the largest logit, and of 1
CLIENT = Path(__file__).with_name("smoke_client.py")
LIMITS = {"memory_mb": 8192, "cpu_s": 300, "file_mb": 64, "wall_s": 300}
TAG = "smoke"  # of the version: what came of it
KEPT = "smoke_rows"  # of the version: where the rows and their answers are kept, for a rollback to ask again


@dataclass(frozen=True)
class Proof:
    """What a version showed."""

    package_sha256: str  # of all files but the signature
    rows: int
    difference: float | None  # of logits to those expected, the largest; None if none were kept
    seconds: float


def challenger(name: str, number: int, predictions: Path, data: Path) -> dict[str, Any]:
    """Prove that a registered version answers as its build was evaluated, then give it the alias `challenger`.

    Returns what the journal keeps of it. Raises TemperError if it does not; the version's tag says why.
    """
    with scratch() as folder:
        question = folder / "question"
        question.mkdir()
        _ask_evaluated(predictions, data, question)
        try:
            proof = prove(name, number, folder, question, None)
        except TemperError as error:
            versions.tag_version(name, number, {TAG: f"failed: {error}"[:4000]})
            champion = registry.registered(name).aliases.get("champion")
            stays = f"version {champion} stays the champion" if champion else "there is no champion"
            raise TemperError(
                f"version {number} of {name} was registered, but not promoted: {error}; {stays}"
            ) from None
        kept = versions.keep(name, number, question)
    words = f"passed: {proof.rows} rows, logits within {proof.difference:.2g} of those evaluated"
    versions.tag_version(name, number, {TAG: words, KEPT: kept})
    versions.challenge(name, number)
    return {"package_sha256": proof.package_sha256, "smoke": words}


def earlier(name: str, number: int, package_sha256: str | None) -> Proof:
    """Prove that a version that was champion still loads, from the files it had then, and answers as it did then."""
    version = registry.version(name, number)
    if version is None:
        raise TemperError(f"{name} has no version {number}: it was deleted; `temper history` names others")
    with scratch() as folder:
        question = folder / "question"
        question.mkdir()
        if kept := version.tags.get(KEPT):
            # Rows that are gone are no reason to stay with a bad champion: the input example is asked.
            with suppress(TemperError):
                question = versions.download(kept, question)
        return prove(name, number, folder, question, package_sha256)


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder with mode 0700, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="temper-smoke-") as made:
        yield Path(made)


def _ask_evaluated(predictions: Path, data: Path, question: Path) -> None:
    """Write the first test rows, as a user has them, and the answers that evaluate kept of them."""
    import numpy as np

    from components import answers
    from components.data import Spec, read_rows

    given = answers.read(predictions)
    answers.check(given, predictions, data / "test.parquet")
    spec = Spec.read(data)
    rows = read_rows(data, "test", spec, texts=True).head(ROWS)
    if rows.texts:
        texts = {column: list(values) for column, values in rows.texts.items()}
        (question / "texts.json").write_text(json.dumps(texts), "utf-8")
    else:
        (images,) = rows.inputs.values()
        np.savez_compressed(question / "images.npz", images=images)
    np.savez_compressed(question / "answers.npz", logits=given.logits[:ROWS])


def prove(name: str, number: int, folder: Path, question: Path, package_sha256: str | None) -> Proof:
    """Have a version answer what is in `question`, or its input example, in a process with `folder` to itself.

    Raises TemperError if its files are not `package_sha256`, or those it was registered with, or if it fails.
    """
    started = time.monotonic()
    with package.verified(name, number) as found:
        if package_sha256 is not None and found.sha256 != package_sha256:
            raise TemperError(
                f"its files have the sha256 {found.sha256[:12]}, and had {package_sha256[:12]} when it was promoted"
            )
        answered = _answer(folder, found.folder, question, LIMITS)
        difference = _compare(question, found.folder, answered)
        return Proof(found.sha256, len(answered["logits"]), difference, time.monotonic() - started)


def _answer(folder: Path, opened: Path, question: Path, limits: Mapping[str, int]) -> Mapping[str, Any]:
    """{logits (rows, classes), labels} of the package in `opened`, asked in a process of its own, in `folder`."""
    import numpy as np

    room = folder / "room"
    room.mkdir()
    command = [sys.executable, "-I", "-B", str(CLIENT), str(opened), str(question), str(room)]
    env = {
        "PATH": os.defpath,
        "HOME": str(room),
        "TMPDIR": str(room),
        "LANG": "C.UTF-8",
        "MLFLOW_TRACKING_URI": f"sqlite:///{room}/none.db",
        **tracking.SETTINGS,
    }
    with (room / "said").open("wb") as said:
        child = subprocess.Popen(
            [*command, json.dumps(dict(limits)), str(os.getpid())],
            cwd=room,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(limits["wall_s"])
        except subprocess.TimeoutExpired:
            raise TemperError(f"it did not answer within {limits['wall_s']} s") from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if code:
        raise TemperError(_why(code, (room / "said").read_text("utf-8", errors="replace"), limits))
    try:
        with np.load(room / "answered.npz", allow_pickle=False) as file:
            return {key: file[key] for key in ("logits", "labels")}
    except (OSError, ValueError, KeyError) as error:
        raise TemperError(f"its answers cannot be read: {error}") from None


def _why(code: int, said: str, limits: Mapping[str, int]) -> str:
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")[:500]
    if code == -signal.SIGXCPU:
        return f"it took more than {limits['cpu_s']} s of processor time"
    if "MemoryError" in last or "bad_alloc" in said or "Failed to allocate memory" in said:
        return f"it needed more than {limits['memory_mb']} MB of address space ({last})"
    return f"a clean process cannot load it or get an answer (exit code {code}): {last}"


def _compare(question: Path, opened: Path, given: Mapping[str, Any]) -> float | None:
    """The largest difference of logits to those kept; None if there are none. Raises TemperError beyond TOLERANCE."""
    import numpy as np

    logits, classes = (
        given["logits"],
        json.loads((opened / "artifacts/build.json").read_text("utf-8"))["spec"]["classes"],
    )
    if logits.ndim != 2 or logits.shape[1] != len(classes) or not len(logits) or not np.isfinite(logits).all():
        raise TemperError(f"its logits are not finite numbers (rows, {len(classes)}), but of the shape {logits.shape}")
    if [classes[best] for best in logits.argmax(1)] != given["labels"].tolist():
        raise TemperError("its labels are not the classes of its largest logits")
    if not (question / "answers.npz").exists():
        return None
    with np.load(question / "answers.npz", allow_pickle=False) as file:
        expected = file["logits"]
    if logits.shape != expected.shape:
        raise TemperError(f"it answers {len(logits)} rows with {logits.shape}, evaluated were {expected.shape}")
    room = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(logits - expected).max())
    # Two classes that lie closer than that may change places; what is farther may not.
    behind = expected.max(1) - expected[np.arange(len(expected)), logits.argmax(1)]
    if difference > room or (behind > room).any():
        other = int((logits.argmax(1) != expected.argmax(1)).sum())
        raise TemperError(
            f"its answers are not those evaluated: of {len(logits)} rows {other} get another class, and logits differ "
            f"by up to {difference:.3g} where {room:.3g} is allowed; was it evaluated on another processor, or were "
            f"files changed? `temper run` measures and decides anew"
        )
    return difference
