"""A life of a workspace on defaults, network cut off and traced, with secrets planted where users have them.

One run of all that a user does, shared by the tests: what it tried to reach, and what became of the secrets.
"""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hardening import traced
from tests.workspace import SMALL, Workspace

pytestmark = [pytest.mark.drill, pytest.mark.skipif(bool(traced.missing()), reason=str(traced.missing()))]

HEART = "Zq7canaryX5w9Kd3hV"  # in every secret, in letters that no encoding but Base64 changes
SECRETS = {
    "AWS_ACCESS_KEY_ID": f"AKIA{HEART}01",
    "AWS_SECRET_ACCESS_KEY": f"{HEART}02/+",
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": f"{HEART}03#@",
    "HF_TOKEN": f"hf_{HEART}04",
    "PREFECT_API_AUTH_STRING": f"somebody:{HEART}05",
    "DATABASE_URL": f"postgresql://somebody:{HEART}06@db.example/x",
}
# A cell that fails with secrets in its exception, as a database client's errors have them.
FAULT = """
    import os
    raise RuntimeError(f"{os.environ['DATABASE_URL']} refused key {os.environ['AWS_SECRET_ACCESS_KEY']}")
"""
SERVED = f"""set -e
temper up --detach
temper status
temper down
temper ui --port 5055 &
asked='import urllib.request as r; r.urlopen("http://127.0.0.1:5055")'
for i in $(seq 90); do {sys.executable} -c "$asked" && break; sleep 1; done
kill $!  # a shell's background processes take no INT
wait $! || true
"""
LIFE: list[tuple[list[str], int]] = [  # (command, exit code)
    (["temper", "status"], 0),
    (["temper", "run"], 1),  # the planted fault: red, and the other cells are done
    (["SMALLER"], 0),
    (["dvc", "repro"], 255),
    (["MENDED"], 0),
    (["temper", "run"], 0),
    (["temper", "matrix"], 0),
    (["temper", "matrix", "--against", "1"], 0),
    (["temper", "promote", "--dry-run"], 0),
    (["temper", "history"], 0),
    (["temper", "show", "champion"], 0),
    (["temper", "verify"], 0),
    (["temper", "doctor"], 0),
    (["temper", "lineage", "champion", "--html", "lineage.html"], 0),
    (["temper", "lr-find", "base", "--steps", "50"], 0),
    (["temper", "rollback", "--reason", "slow on Mondays"], 0),
    (["temper", "reproduce", "champion"], 0),
    (["temper", "preset", "list"], 0),
    (["dvc", "metrics", "show"], 0),
    (["dvc", "plots", "show"], 0),
    (["bash", "-c", SERVED], 0),
]


class Lived:
    """Where the life took place, what was said and what was traced."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root.parent / f"{root.name}.traces"
        self.log.mkdir()
        self.workspace = Workspace(root / "checkout")
        self.said: dict[str, str] = {}

    def __call__(self, number: int, words: list[str], code: int) -> None:
        home, temporary = self.root / "home", self.root / "tmp"
        for folder in (home, temporary):
            folder.mkdir(exist_ok=True)
        env = {**SECRETS, "HOME": str(home), "TMPDIR": str(temporary)}
        env["TEMPER_SIGNING_KEY"] = str(self.root.parent / f"{self.root.name}.key")
        trace = self.log / f"{number:02}"
        command = [sys.executable, str(Path(traced.__file__)), str(trace), *words]
        self.said[" ".join([str(number), *words])[:60]] = self.workspace(*command, code=code, **env)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """Two promotions, one of them by plain `dvc repro`, a rollback, a reproduction, and the servers."""
    before = os.umask(0o002)  # as on systems where every user has a group of their own
    made = Lived(tmp_path_factory.mktemp("life"))
    key = made.root.parent / f"{made.root.name}.key"
    target = made.workspace.folder / "components/targets/onnx_fp16.py"
    sound = target.read_text("utf-8")
    base = {"variants": {"base": SMALL["variants"]["base"]}}
    fp32, fp16, int8 = {"kind": "onnx_fp32"}, {"kind": "onnx_fp16"}, SMALL["targets"]["int8_dynamic"]
    try:
        made.workspace("temper", "key", str(key))
        graph = "    from components import graph\n"
        assert sound.count(graph) == 1
        target.write_text(sound.replace(graph, FAULT), "utf-8")
        made.workspace.write_params({**SMALL, **base, "targets": {"fp32": fp32, "fp16": fp16}})
        made.workspace.commit()
        made.workspace("git", "remote", "add", "origin", f"https://somebody:{HEART}07@git.example/x.git")
        for number, (words, code) in enumerate(LIFE):
            if words == ["SMALLER"]:
                path = made.workspace.folder / "params.yaml"
                made.workspace.write_params(
                    {**SMALL, **base, "targets": {"fp32": fp32, "fp16": fp16, "int8_dynamic": int8}}
                )
                text = path.read_text("utf-8").replace("objective: latency_ms", "objective: size_mb")
                path.write_text(text.replace("margin: 0.02", "margin: 0.2"), "utf-8")
            elif words == ["MENDED"]:
                target.write_text(sound, "utf-8")
            else:
                made(number, words, code)
        yield made
    finally:
        os.umask(before)


@pytest.mark.hardening("K61", "a workspace's whole life with the network cut off, every connection traced")
def test_nothing_is_reached_out_for_while_everything_runs_on_defaults(lived: Lived) -> None:
    assert len(list(lived.log.iterdir())) == len([words for words, _ in LIFE if words[0].islower()])
    assert any("127.0.0.1" in trace.read_text("utf-8", errors="replace") for trace in lived.log.iterdir())
    tried = {trace.name: traced.outbound(trace) for trace in sorted(lived.log.iterdir())}
    assert not any(tried.values()), {name: lines[:5] for name, lines in tried.items() if lines}
    assert lived.workspace.registry() == (2, 1)  # it did go on to the end: two versions, and back to the first


def needles(secret: str) -> list[bytes]:
    """A secret as it is, percent-encoded and in Base64, whatever stood before it."""
    encoded = [base64.b64encode(b"x" * shift + secret.encode()) for shift in range(3)]
    kept = [encoded[0][:-4], encoded[1][4:-4], encoded[2][4:-4]]  # what the neighbours have no part in
    return [secret.encode(), urllib.parse.quote(secret, safe="").encode(), *kept]


def places(lived: Lived) -> Iterator[tuple[str, bytes]]:
    """Every file that was written, every object of git as plain bytes, every word that was printed."""
    for folder in (lived.root, lived.root / "checkout/.git"):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path != lived.workspace.folder / ".git/config":
                yield str(path), path.read_bytes()
    for git in lived.root.rglob("HEAD"):
        objects = ["git", "--git-dir", str(git.parent), "cat-file", "--batch-all-objects", "--batch", "--unordered"]
        yield f"git objects of {git.parent}", subprocess.run(objects, capture_output=True, check=False).stdout
    for command, said in lived.said.items():
        yield f"what {command} said", said.encode()


@pytest.mark.hardening("K60", "secrets in environment, address, key file and exception; all that was written searched")
def test_no_secret_is_in_anything_that_was_written_or_said(lived: Lived) -> None:
    key = (lived.root.parent / f"{lived.root.name}.key").read_text("ascii").splitlines()[1]
    wanted = [*needles(HEART), key.encode()]
    read, found = 0, set()
    for name, content in places(lived):
        read += 1
        found |= {name for needle in wanted if needle in content}
    assert read > 1000
    assert not found, sorted(found)
    failed = "\n".join(lived.said.values())
    assert "RuntimeError: postgresql://" in failed  # the exception was told, without what it held


@pytest.mark.hardening("K62", "every file and folder of a workspace's life, made under umask 002")
def test_nothing_that_was_written_is_writable_by_everybody(lived: Lived, sound: Callable[[Path], None]) -> None:
    loose = [
        str(path) for path in lived.root.rglob("*") if not path.is_symlink() and path.lstat().st_mode & stat.S_IWOTH
    ]
    assert not loose, loose[:20]
    for private in (".temper/prefect", ".temper/up.json"):
        assert not (lived.workspace.folder / private).stat().st_mode & 0o077, private
    sound(lived.workspace.folder)
