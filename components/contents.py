"""What the files of a registered version may be: everything else in a package is refused, and nothing is run."""

from __future__ import annotations

import contextlib
import io
import json
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from components import admission
from components.errors import TemperError

LOADER = Path(__file__).with_name("loader.py")
# Every loader that has shipped: going back to a version from before an update of Temper must work.
PUBLISHED = (
    "cb373cdc65f8ad042002fb5a51298ce4c47fd7a564d093869cde657b4ce1e6ca",
    "bc2326fd5866d716f18f7fb12dea3c4c4142b42c0e3a9ef4d3f00909335b8440",
    "f4c79b123f11670691bc51dacb130a876c7dc38292a23c0c1ed485e871d1889f",
)
SIGNATURE = "model.sig"
# MLflow writes it beside a model each time it is loaded, in the store too. Never read, copied or signed.
NOTE = "registered_model_meta"
# A file where Python would make a folder: loading leaves no bytecode beside loader.py, which would run in its place.
BARRIER = "__pycache__"
BARRIER_TEXT = b"A file, so that Python keeps no bytecode here, which would run in place of loader.py.\n"
NEEDED = {"MLmodel", "loader.py", *(f"artifacts/{name}" for name in ("model.onnx", "build.json", "CARD.md", "LICENSE"))}
ENVIRONMENT = ("conda.yaml", "python_env.yaml", "requirements.txt")
ALLOWED = NEEDED | {
    *ENVIRONMENT,
    "input_example.json",
    "serving_input_example.json",
    "artifacts/tokenizer.json",
    SIGNATURE,
    BARRIER,
}
FLAVOR = {
    "loader_module": "mlflow.pyfunc.loaders.code_model",
    "code": None,
    "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
}
FLAVOR_KEYS = {*FLAVOR, "artifacts", "cloudpickle_version", "model_code_path", "python_version", "streamable"}
CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"}  # opcodes of pickle that call something


def refused(what: str, path: str, reason: str) -> TemperError:
    return TemperError(f"{what}: {path} {reason}; go back to a version that is whole")


def check(folder: Path, files: Mapping[str, str], what: str) -> None:
    """Refuse what a package has no use for. Raises TemperError that names the first such file."""
    for path in sorted(files):
        content = (folder / path).read_bytes()
        if reason := _foreign(path, content, files[path]):
            raise refused(what, path, reason)
    if missing := sorted(NEEDED - files.keys()):
        raise refused(what, missing[0], "is missing")
    try:
        spec = json.loads((folder / "artifacts/build.json").read_text("utf-8"))["spec"]
        names = external((folder / "artifacts/model.onnx").read_bytes(), spec)
        allowed = ALLOWED | {f"artifacts/{name}" for name in names}
    except (KeyError, TypeError) as error:
        raise refused(what, "artifacts/build.json", f"has no {error}") from None
    except ValueError as error:
        raise refused(what, "artifacts/model.onnx", str(error)) from None
    if missing := sorted(allowed - ALLOWED - files.keys()):
        raise refused(what, missing[0], "is missing: artifacts/model.onnx keeps weights in it")
    if more := sorted(files.keys() - allowed):
        raise refused(what, more[0], "does not belong into a package")
    if reason := _flavor((folder / "MLmodel").read_text("utf-8"), files):
        raise refused(what, "MLmodel", reason)


def _foreign(path: str, content: bytes, sha256: str) -> str | None:
    """Why these bytes may not be in a package under this name, or None."""
    name = PurePosixPath(path).name
    if name.endswith((".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".pth")):
        return None if path == "loader.py" and sha256 in PUBLISHED else "is code other than Temper's own loader"
    if path == BARRIER:
        return None if content == BARRIER_TEXT else "is not what Temper puts there"
    if pickled(content):
        return "is pickled: reading it could run code"
    if zipfile.is_zipfile(io.BytesIO(content)):
        return "is a zip archive, which could hold anything"
    if name.endswith(".json") or path == SIGNATURE:
        return _json(content)
    if name.endswith((".md", ".txt", ".yaml")) or path in ("MLmodel", "artifacts/LICENSE"):
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            return "is no text"
        if path in ENVIRONMENT and re.search(r"://|--|\s@\s|git\+", text):
            return "names an address or an option of pip: only pinned packages may be installed"
    return None


def pickled(content: bytes) -> bool:
    """Whether pickle would take this for its own and call something, or its header says so."""
    if content[:1] == b"\x80" and content[1:2] in (b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    # Protocols 0 and 1 have no header. What calls may stand before bytes that are no pickle: it would have run by then.
    named = False
    with contextlib.suppress(Exception):  # whatever pickletools says of bytes that are none
        for opcode, argument, _ in pickletools.genops(content[:1_000_000]):
            if opcode.name in ("GLOBAL", "INST"):
                named = named or re.fullmatch(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*", str(argument)) is not None
            named = named or opcode.name == "STACK_GLOBAL"
            if named and opcode.name in CALLS:
                return True
    return False


def _json(content: bytes) -> str | None:
    """Why this JSON is refused: damaged, or with keys that make a reader run code or templates."""
    asked: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            raise ValueError("a key twice")
        asked.extend(
            key for key in ("auto_map", "chat_template") if key in found and not isinstance(found[key], int)
        )  # a number: the word is one of a vocabulary
        return found

    try:
        json.loads(content, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {' '.join(str(error).split())[:100]}"
    return f"has the key {asked[0]}, by which readers run what it says" if asked else None


def external(model: bytes, spec: Mapping[str, Any] | None = None) -> set[str]:
    """The files beside an ONNX model in which it keeps weights.

    Raises ValueError for one that is elsewhere, and for a model that `admission.check` refuses.
    """
    import onnx

    todo = [admission.check(model, spec)]
    found = set()
    while todo:
        message = todo.pop()
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
                found |= {entry.value for entry in message.external_data if entry.key == "location"} or {""}
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                todo.extend(value if field.is_repeated else [value])
    for name in sorted(found):
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ValueError(f"keeps weights in {name!r}, which is not a file beside it")
    return found


def _flavor(text: str, files: Mapping[str, str]) -> str | None:
    """Why MLflow must not be given this MLmodel: it names what is imported and executed."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        flavors = YAML(typ="safe", pure=True).load(text)["flavors"]
        flavor = flavors["python_function"]
        paths = {entry["path"] for entry in flavor["artifacts"].values()}
        code = flavor["model_code_path"].rpartition("/")[2]
    except (YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        return f"is no MLmodel of Temper's: {' '.join(str(error).split())[:100]}"
    if flavors.keys() != {"python_function"} or not flavor.keys() <= FLAVOR_KEYS or code != "loader.py":
        return "names other code than Temper's own loader"
    if any(flavor.get(key) != value for key, value in FLAVOR.items()):
        return "names other code than Temper's own loader"
    return None if paths <= files.keys() else "names files that are not in the package"
