"""What a registered version may hold, and its files brought here whole.

`verified` gives a private copy: what was hashed and checked is what is opened, whatever happens to the store meanwhile.
Nothing of a package is executed or unpickled here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickletools
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from components import registry, signing
from components.errors import TemperError

LOADER = Path(__file__).with_name("loader.py")
# Every loader that has shipped: going back to a version from before an update of Temper must work.
PUBLISHED = (
    "cb373cdc65f8ad042002fb5a51298ce4c47fd7a564d093869cde657b4ce1e6ca",
    "bc2326fd5866d716f18f7fb12dea3c4c4142b42c0e3a9ef4d3f00909335b8440",
    "f4c79b123f11670691bc51dacb130a876c7dc38292a23c0c1ed485e871d1889f",
)
SIGNATURE, UNSIGNED = "model.sig", "unsigned"
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


@dataclass(frozen=True)
class Package:
    """A version's files in a private folder, with the sha256 of each; `signed`: by whom, in words."""

    folder: Path
    files: Mapping[str, str]
    signed: str

    @property
    def sha256(self) -> str:
        """One hash over all but the signature."""
        return hashlib.sha256(manifest(self.files).encode()).hexdigest()


@contextlib.contextmanager
def verified(model: str, number: int, keys: signing.Keys | None = None) -> Iterator[Package]:
    """A private copy of a registered version's files, checked, and compared with its tags and its signature.

    `keys`: those of this workspace if not given. Raises TemperError, naming the file, for anything that is not as it
    was registered.
    """
    keys = keys or signing.configured()
    with _whole(model, number) as (folder, files):
        yield Package(folder, files, check_signature(folder, keys, called(model, number)))


def sign(model: str, number: int, keys: signing.Keys) -> None:
    """Sign a version that is whole, whoever signed it before."""
    from components import versions

    with _whole(model, number) as (folder, files):
        tags = _signed(folder, files, keys)
        versions.add(model, number, [folder / SIGNATURE], tags)


def called(model: str, number: int) -> str:
    return f"version {number} of {model}"


@contextlib.contextmanager
def _whole(model: str, number: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """As `verified`, whoever signed it, and the sha256 of each file."""
    version, what = registry.version(model, number), called(model, number)
    if version is None:
        raise TemperError(f"{model} has no version {number}; `temper ui` shows those there are")
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:  # mode 0700
        source = registry.files(version.source)
        if source is None:
            from components import versions

            download = Path(scratch, ".download")
            download.mkdir()
            source = versions.download(version.source, download)
        if not (source / "MLmodel").exists():
            raise TemperError(
                f"{what}: its files are not at {source}; bring them back, or move the alias to a version that is there"
            )
        folder = Path(scratch, model)
        files = copy(source, folder, what)
        check(folder, files, what)
        check_tags(folder, files, version.tags, what)
        yield folder, files


def copy(source: Path, to: Path, what: str) -> dict[str, str]:
    """Copy plain files below `source`; returns the sha256 of each, of the very bytes that were written.

    Raises TemperError for links, hard ones too, and for what is no file: they may change, or lead elsewhere.
    """
    hashes: dict[str, str] = {}
    for folder, folders, names, descriptor in os.fwalk(source, follow_symlinks=False):
        below = PurePosixPath(Path(folder).relative_to(source).as_posix())
        (to / below).mkdir(parents=True)
        for name in folders:
            if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                raise refused(what, str(below / name), "is a symbolic link")
        for name in names:
            if (path := str(below / name)) == NOTE:
                continue
            content = _read(name, descriptor, what, path)
            hashes[path] = hashlib.sha256(content).hexdigest()
            (to / path).write_bytes(content)
    return hashes


def _read(name: str, folder: int, what: str, path: str) -> bytes:
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        link = stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        raise refused(what, path, "is a symbolic link" if link else f"cannot be read: {error.strerror}") from None
    with os.fdopen(opened, "rb") as file:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise refused(what, path, "is no plain file")
        if found.st_nlink > 1:
            raise refused(what, path, "is a hard link: it has another name, by which it may be changed")
        return file.read()


def refused(what: str, path: str, reason: str) -> TemperError:
    return TemperError(f"{what}: {path} {reason}; go back to a version that is whole")


# --- what the files may be -------------------------------------------------------------------------


def check(folder: Path, files: Mapping[str, str], what: str) -> None:
    """Refuse what a package has no use for. Raises TemperError that names the first such file."""
    for path in sorted(files):
        content = (folder / path).read_bytes()
        if reason := _foreign(path, content, files[path]):
            raise refused(what, path, reason)
    if missing := sorted(NEEDED - files.keys()):
        raise refused(what, missing[0], "is missing")
    try:
        allowed = ALLOWED | {f"artifacts/{name}" for name in external((folder / "artifacts/model.onnx").read_bytes())}
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


def external(model: bytes) -> set[str]:
    """The files beside an ONNX model in which it keeps weights. Raises ValueError for one that is elsewhere."""
    import onnx

    try:
        todo = [onnx.load_model_from_string(model)]
    except Exception as error:  # protobuf's own class, which has no types
        raise ValueError("is no ONNX model") from error
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


# --- what the files must be ------------------------------------------------------------------------


def manifest(files: Mapping[str, str]) -> str:
    """JSON of every file's sha256, but the signature's: the version's tag `manifest`."""
    return json.dumps({path: sha256 for path, sha256 in sorted(files.items()) if path != SIGNATURE})


def check_tags(folder: Path, files: Mapping[str, str], tags: Mapping[str, str], what: str) -> None:
    """Compare with what the registry keeps of the version. One made by an older Temper has no manifest there."""
    from components import runtime

    if "manifest" in tags:
        known = json.loads(tags["manifest"])
        for path in sorted(known.keys() | files.keys() - {SIGNATURE}):
            if known.get(path) != files.get(path):
                how = "changed" if path in known and path in files else "removed" if path in known else "added"
                raise refused(what, path, f"was {how} after it was registered")
    found = runtime.digest(folder / "artifacts")
    if "digest" in tags and found != tags["digest"]:
        raise TemperError(
            f"{what}: its files have the digest {found[:12]}, the registry says {tags['digest'][:12]}; go back to a "
            f"version that is whole"
        )


def check_signature(folder: Path, keys: signing.Keys, what: str) -> str:
    """Returns what can be said of the signature. Raises TemperError if it is not what `keys` ask for."""
    there = (folder / SIGNATURE).exists()
    if not keys.verifies:
        return "signed, not verified: no public key is given" if there else UNSIGNED
    if not there:
        raise TemperError(
            f"{what}: is not signed, but a key to verify with is given; if you trust it, `temper sign` signs it"
        )
    signing.verify(folder, SIGNATURE, keys, what)
    return f"signed by {keys.fingerprint}"


def seal(folder: Path, keys: signing.Keys) -> tuple[dict[str, str], list[Path]]:
    """Finish a package that MLflow has written: (tags that say what it is, files that were added)."""
    what = "the new version"
    (folder / NOTE).unlink(missing_ok=True)
    (folder / BARRIER).write_bytes(BARRIER_TEXT)
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        files = copy(folder, Path(scratch, "package"), what)
        check(Path(scratch, "package"), files, what)
    tags = _signed(folder, files, keys)
    return tags, [folder / name for name in (BARRIER, SIGNATURE) if (folder / name).exists()]


def _signed(folder: Path, files: Mapping[str, str], keys: signing.Keys) -> dict[str, str]:
    """Sign if there is a key; the tags that say so."""
    if keys.private is None:
        return {"manifest": manifest(files), "signed": "no"}
    signing.sign(folder, SIGNATURE, [NOTE], keys.private)
    return {"manifest": manifest(files), "signed": keys.fingerprint}
