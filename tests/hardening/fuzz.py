"""Opens a model file with one byte changed, many times: run as a child with limits, by `flipped`.

    python fuzz.py KIND FOLDER FIRST COUNT SEED

Prints a line a case: its number and what came of it, `refused` or `answered`. A case that takes 10 s of the processor
ends the process.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS, STUCK = 10, 300
MEMORY = 4 << 30
FILES = {"onnx": "model.onnx", "safetensors": "model.safetensors", "tokenizer": "tokenizer.json"}


def changed(content: bytes, seed: int, number: int) -> bytes:
    drawn = random.Random(f"{seed} {number}")  # noqa: S311 - of bytes
    at = drawn.randrange(len(content))
    return content[:at] + bytes([content[at] ^ drawn.randrange(1, 256)]) + content[at + 1 :]


def onnx(folder: Path) -> Callable[[bytes], None]:
    """As a version of the registry is opened: admitted, a session, rows; the answers are held against the spec."""
    import numpy as np

    from components import admission
    from components.data import Spec
    from components.session import OnnxSession

    card = json.loads((folder / "build.json").read_text("utf-8"))
    spec = Spec.model_validate(card["spec"])
    ids = np.arange(1, 9, dtype=np.int64).reshape(2, 4)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def ask(content: bytes) -> None:
        admission.check(content, card["spec"])
        logits = OnnxSession(content, {}, 1, spec, "it").run(inputs)
        if logits.shape != (2, len(spec.classes)) or not np.isfinite(logits).all():
            raise ValueError("no logits")

    return ask


def safetensors(folder: Path) -> Callable[[bytes], None]:
    from safetensors.numpy import load_file

    from components.checkpoint import check_weights

    here = folder / "changed"
    here.mkdir(exist_ok=True)

    def ask(content: bytes) -> None:
        (here / "model.safetensors").write_bytes(content)
        check_weights(here, "it")
        load_file(here / "model.safetensors")

    return ask


def tokenizer(folder: Path) -> Callable[[bytes], None]:
    from components import text

    here = folder / "changed.json"

    def ask(content: bytes) -> None:
        here.write_bytes(content)
        made = text.load(here)
        text.encode(made, ["the goal of the team", "a bank & the market é"], None, 16, 0)

    return ask


def main(kind: str, folder: str, first: str, count: str, seed: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    makers = {"onnx": onnx, "safetensors": safetensors, "tokenizer": tokenizer}
    ask, content = makers[kind](Path(folder)), (Path(folder) / FILES[kind]).read_bytes()
    ask(content)
    for number in range(int(first), int(count)):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: the machine may be busy
        signal.alarm(STUCK)
        try:
            ask(changed(content, int(seed), number))
            said = "answered"
        except Exception:  # noqa: BLE001 - whatever a library raises is a refusal
            said = "refused"
        except BaseException as error:  # noqa: BLE001 - a panic of Rust code, which `except Exception` lets through
            said = f"escaped {type(error).__name__}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        print(number, said, flush=True)


def flipped(kind: str, folder: Path, count: int, seed: int) -> Counter[str]:
    """How many of `count` changed files came to what; a child that is killed counts, and another goes on."""
    found: Counter[str] = Counter()
    first, root = 0, Path(__file__).resolve().parents[2]
    while first < count:
        words = [sys.executable, __file__, kind, str(folder), str(first), str(count), str(seed)]
        env: dict[str, Any] = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=1_800)
        lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
        found.update(said for _, said in lines)
        first = int(lines[-1][0]) + 1 if lines else first
        if done.returncode >= 0 and first < count:
            raise RuntimeError(f"the child ended with {done.returncode}: {done.stderr[-2000:]}")
        if first < count:
            late = -done.returncode in (signal.SIGPROF, signal.SIGALRM)
            found["timed out" if late else "crashed"] += 1
            first += 1
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
