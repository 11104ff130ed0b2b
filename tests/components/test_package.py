from __future__ import annotations

import base64
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import contents, package, registry, signing
from components.errors import TemperError
from components.hashing import sha256_file
from tests.components.packages import OTHER, SIGNED, UNSIGNED, folder_of, restore


def opened(number: int = SIGNED) -> str:
    with package.verified("digits", number) as found:
        return found.signed


def test_a_signed_version_is_whole(keyed: Path) -> None:
    keys = signing.configured()
    assert opened() == f"signed by {keys.fingerprint}"
    version = registry.version("digits", SIGNED)
    assert version is not None and version.tags["signed"] == keys.fingerprint
    manifest = json.loads(version.tags["manifest"])
    files = {path.relative_to(folder_of(SIGNED)).as_posix() for path in folder_of(SIGNED).rglob("*") if path.is_file()}
    assert manifest.keys() == files - {package.SIGNATURE, contents.NOTE}
    assert all(sha256_file(folder_of(SIGNED) / path) == sha256 for path, sha256 in manifest.items())
    bundle = json.loads((folder_of(SIGNED) / package.SIGNATURE).read_text("utf-8"))
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert {entry["name"]: entry["digest"] for entry in statement["predicate"]["resources"]} == manifest


def test_the_command_of_openssf_takes_it_too(store: Path) -> None:
    folder = folder_of(SIGNED)
    ask = [Path(sys.executable).with_name("model_signing"), "verify", "key", folder]
    for name, code in (("own", 0), ("other", 1)):
        words = [*ask, "--signature", folder / package.SIGNATURE, "--public_key", f"{name}.pub"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == code, done.stderr + done.stdout


def test_without_a_key_it_says_so(store: Path) -> None:
    assert opened() == "signed, not verified: no public key is given"
    assert opened(UNSIGNED) == "unsigned"
    version = registry.version("digits", UNSIGNED)
    assert version is not None and version.tags["signed"] == "no"


@pytest.mark.hardening("K59", "a version without a signature, where there is a key")
def test_with_a_key_unsigned_is_refused(keyed: Path) -> None:
    with pytest.raises(TemperError, match=r"version 3 of digits: is not signed.*`temper sign`"):
        opened(UNSIGNED)


@pytest.mark.hardening("K59", "a version signed by another key")
def test_another_key_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_VERIFY_KEY", "other.pub")
    with pytest.raises(TemperError, match=r"version 1 of digits: its signature is not that of key .*Key mismatch"):
        opened()


def test_a_key_of_the_same_name_but_other_content_is_refused(restored: Path, keyed: Path) -> None:
    """The hint in a bundle is only a hint: the signature itself must be the key's."""
    path = folder_of(SIGNED) / package.SIGNATURE
    signing.sign(folder_of(SIGNED), package.SIGNATURE, [contents.NOTE], Path("other"))
    bundle = json.loads(path.read_text("utf-8"))
    known = json.loads((Path("whole") / path.relative_to(Path("mlruns/artifacts").absolute())).read_text("utf-8"))
    bundle["verificationMaterial"] = known["verificationMaterial"]
    path.write_text(json.dumps(bundle), "utf-8")
    with pytest.raises(TemperError, match=r"its signature is not that of key .* made by this key"):
        opened()


@pytest.mark.hardening("K59", "the signature, or the whole package, of another version")
def test_a_swapped_signature_or_package_is_refused(restored: Path, keyed: Path) -> None:
    shutil.copy(folder_of(OTHER) / package.SIGNATURE, folder_of(SIGNED))
    with pytest.raises(TemperError, match="Hash mismatch"):
        opened()
    shutil.rmtree(folder_of(SIGNED))
    shutil.copytree(folder_of(OTHER), folder_of(SIGNED))  # whole and signed, but not what this version is
    with pytest.raises(TemperError, match="was changed after it was registered"):
        opened()


def test_signing_again_makes_it_another_keys(restored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_SIGNING_KEY", str(restored / "other"))
    package.sign("digits", UNSIGNED, signing.configured())
    assert opened(UNSIGNED).startswith("signed by ")
    (folder_of(OTHER) / "artifacts/CARD.md").write_text("better than ever", "utf-8")
    with pytest.raises(TemperError, match=r"artifacts/CARD\.md was changed"):
        package.sign("digits", OTHER, signing.configured())


class Harm:
    def __reduce__(self) -> Any:
        return Path("harm").touch, ()


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", content)
    return file.getvalue()


CODE = b"from pathlib import Path\nPath('harm').touch()\n"
PICKLED, CODE_IS = "is pickled", "is code other than Temper's own loader"
FOREIGN: dict[str, tuple[str, bytes, str]] = {
    "any pickle": ("artifacts/model.onnx", pickle.dumps({"a": 1}, 4), PICKLED),
    "a pickle of old": ("artifacts/LICENSE", pickle.dumps(Harm(), 0), PICKLED),
    "a pickle that breaks off": ("artifacts/CARD.md", pickle.dumps(Harm(), 1)[:-1] + b"\xff", PICKLED),
    "a pickle in a zip": ("artifacts/model.onnx", zipped(pickle.dumps(Harm())), "is a zip archive"),
    "a zip behind something": ("artifacts/model.onnx", b"\x08\x0a" + zipped(b""), "is a zip archive"),
    "another loader": ("loader.py", CODE, CODE_IS),
    "code": ("artifacts/helper.py", CODE, CODE_IS),
    "bytecode": ("artifacts/loader.cpython-311.pyc", CODE, CODE_IS),
    "a library": ("libharm.so", b"\x7fELF", CODE_IS),
    "auto_map": (
        "artifacts/build.json",
        b'{"spec": [{"auto_map": {"AutoModel": "harm.Model"}}]}',
        "has the key auto_map",
    ),
    "auto_map in disguise": ("input_example.json", b'{"auto\\u005fmap": "harm.Model"}', "has the key auto_map"),
    "chat_template": ("artifacts/tokenizer.json", b'{"chat_template": "{{ harm }}"}', "has the key chat_template"),
    "a key twice": ("artifacts/build.json", b'{"file": "model.onnx", "file": "other.onnx"}', "is no JSON: a key twice"),
    "no JSON": ("artifacts/build.json", b"[" * 100_000, "is no JSON"),
    "no ONNX": ("artifacts/model.onnx", b"not a model", "is no ONNX model"),
    "no text": ("artifacts/CARD.md", b"\xff\xfe", "is no text"),
    "what is not of a package": ("artifacts/notes.txt", b"hello", "does not belong into a package"),
    "another index of packages": ("requirements.txt", b"--index-url https://harm.invalid\n", "an address or an option"),
    "a package by address": ("requirements.txt", b"numpy @ git+https://harm.invalid\n", "an address or an option"),
    "another MLmodel": (
        "MLmodel",
        b"flavors:\n  python_function: {loader_module: harm, artifacts: {}, model_code_path: loader.py}\n",
        "names other code",
    ),
    "an MLmodel that asks for objects": (
        "MLmodel",
        b"flavors: !!python/object/apply:os.system ['touch harm']\n",
        "is no",
    ),
}


@pytest.mark.hardening("G35", "pickles, code, libraries, zips, auto_map, chat_template, extra files, other MLmodels")
@pytest.mark.parametrize("case", FOREIGN)
def test_what_could_run_is_refused_signed_or_not(case: str, restored: Path, tmp_path: Path) -> None:
    """By the rules of packages alone: whoever signed it, and with no manifest to compare with."""
    path, content, reason = FOREIGN[case]
    target = folder_of(UNSIGNED) / path
    target.write_bytes(content)
    files = package.copy(folder_of(UNSIGNED), tmp_path / "copy", "it")
    with pytest.raises(TemperError, match=rf"^it: {path} .*{reason}"):
        contents.check(tmp_path / "copy", files, "it")
    with pytest.raises(TemperError, match="version 3 of digits"):
        opened(UNSIGNED)
    assert not Path("harm").exists()


def test_a_word_of_a_vocabulary_may_be_called_auto_map() -> None:
    assert contents._json(b'{"model": {"vocab": {"auto_map": 7, "chat_template": 8}}}') is None


def test_licences_are_no_pickles(root: Path) -> None:
    """Text is full of opcodes: neither these files nor what begins as a pickle of old does is one."""
    texts = [path.read_bytes() for path in (root / "docs").glob("*.md")]
    texts += [b"Copyright (c) 2026\nRedistribution\n", b"call me\nlater\nReally.\n", b"cat\ndog\n"]
    assert not any(contents.pickled(text) for text in texts)
    assert contents.pickled(pickle.dumps(Harm(), 0))


def damaged_flavor(text: str) -> list[str]:
    changes = {
        "loader_module: mlflow.pyfunc.loaders.code_model": "loader_module: pip",
        "flavors:": "flavors:\n  sklearn: {pickled_model: harm.pkl}",
        "code: null": "code: artifacts",
        "loader.py": "other.py",
        "path: artifacts/CARD.md": "path: ../CARD.md",
        "streamable: false": "streamable: false\n    python_model: harm.pkl",
    }
    assert all(before in text for before in changes)
    return [text.replace(before, after) for before, after in changes.items()]


def test_mlmodel_names_no_code_but_the_loader(store: Path, tmp_path: Path) -> None:
    files = package.copy(folder_of(UNSIGNED), tmp_path / "copy", "it")
    path = tmp_path / "copy/MLmodel"
    contents.check(tmp_path / "copy", files, "it")
    for text in damaged_flavor(path.read_text("utf-8")):
        path.write_text(text, "utf-8")
        with pytest.raises(TemperError, match=r"^it: MLmodel names"):
            contents.check(tmp_path / "copy", files, "it")


@pytest.mark.hardening("G35", "links, hard ones too, pipes, sockets, linked folders")
@pytest.mark.parametrize("kind", ["symbolic", "hard", "folder", "pipe", "socket"])
@pytest.mark.hardening("K63", "links and what is no file in a version")
def test_links_and_what_is_no_file_are_refused(kind: str, restored: Path, tmp_path: Path) -> None:
    path, moved = folder_of(UNSIGNED) / "artifacts/CARD.md", tmp_path / "CARD.md"
    shutil.move(path, moved)
    if kind == "symbolic":
        path.symlink_to(moved)
    elif kind == "hard":
        os.link(moved, path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_UNIX) as server:
            patch.chdir(path.parent)  # such addresses are short
            server.bind(path.name)
    else:
        (tmp_path / "artifacts").mkdir()
        shutil.move(moved, path)
        shutil.move(path.parent, tmp_path / "elsewhere")
        path.parent.symlink_to(tmp_path / "elsewhere")
    wanted = {"hard": "is a hard link", "pipe": "is no plain file", "socket": "cannot be read"}
    with pytest.raises(TemperError, match=f"artifacts.* {wanted.get(kind, 'is a symbolic link')}"):
        opened(UNSIGNED)


def external(where: str) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=where)
    node = helper.make_node("Constant", [], ["logits"], value=weights)  # not only initializers keep weights
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1])
    model: onnx.ModelProto = helper.make_model(helper.make_graph([node], "g", [image], [output]))
    return bytes(model.SerializeToString())


@pytest.mark.hardening("G34", "external data: .., absolute, empty, line breaks")
@pytest.mark.parametrize("where", ["../weights", "/etc/passwd", "a/../../b", "", ".", "..", "C:\\weights", "a\nb"])
def test_weights_elsewhere_are_refused(where: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keeps weights in"):
        contents.external(external(where))


def test_weights_beside_the_model_belong_to_the_package(store: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_of(UNSIGNED), tmp_path / "new")
    (tmp_path / "new/artifacts/model.onnx").write_bytes(external("model.onnx.data"))
    keys = signing.Keys(Path("own"), Path("own.pub").read_bytes())
    with pytest.raises(TemperError, match=r"artifacts/model\.onnx\.data is missing"):
        package.seal(tmp_path / "new", keys)
    (tmp_path / "new/artifacts/model.onnx.data").write_bytes(b"\0" * 4)
    tags, added = package.seal(tmp_path / "new", keys)
    assert "artifacts/model.onnx.data" in json.loads(tags["manifest"])
    assert package.check_signature(tmp_path / "new", keys, "it").startswith("signed by")
    (tmp_path / "new/artifacts/model.onnx.data").write_bytes(b"\1" * 4)
    with pytest.raises(TemperError, match=r"artifacts/model\.onnx\.data"):
        package.check_signature(tmp_path / "new", keys, "it")
    assert [path.name for path in added] == [contents.BARRIER, package.SIGNATURE]


def test_every_loader_that_shipped_is_known() -> None:
    """A change of loader.py adds a line to PUBLISHED: versions that ship an older one must still open."""
    assert sha256_file(contents.LOADER) == contents.PUBLISHED[-1]


def test_loading_by_mlflow_alone_leaves_it_whole(restored: Path, keyed: Path) -> None:
    """Neither MLflow's note of the version nor bytecode beside the loader, which would run in its place."""
    code = "import mlflow; mlflow.pyfunc.load_model('models:/digits/1')"
    known = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env = known | {"MLFLOW_TRACKING_URI": registry.address()}
    subprocess.run([sys.executable, "-P", "-c", code], env=env, check=True, capture_output=True)
    assert "digits" in (folder_of(SIGNED) / contents.NOTE).read_text("utf-8")
    assert opened().startswith("signed by")


FILES = [*sorted(contents.NEEDED), "requirements.txt", "input_example.json", package.SIGNATURE, contents.BARRIER]


@pytest.mark.hardening("G35", "random damage of any file of a version")
@pytest.mark.hardening("C17", "a registered version's file is cut, changed, removed, or another put beside it")
@given(
    number=st.sampled_from([SIGNED, UNSIGNED]),
    path=st.sampled_from(FILES),
    how=st.sampled_from(["flip", "truncate", "extend", "empty", "add", "remove", "rename", "link", "hard link"]),
    at=st.integers(0, 1 << 30),
    bit=st.integers(0, 7),
    name=st.text("abc./_-é", min_size=1, max_size=12),
)
@pytest.mark.hardening("K59", "a byte changed, a file added, removed or renamed, at random")
def test_any_damage_is_refused_and_never_runs(
    store: Path, number: int, path: str, how: str, at: int, bit: int, name: str
) -> None:
    folder = folder_of(number)
    file = folder / path
    if number == UNSIGNED and path == package.SIGNATURE:
        file = folder / "MLmodel"
    new = file.parent / name.replace("/", "").strip(".") if name.replace("/", "").strip(".") else file.parent / "x"
    content = bytearray(file.read_bytes())
    if how == "flip":
        content[at % len(content)] ^= 1 << bit
        file.write_bytes(content)
    elif how == "truncate":
        file.write_bytes(content[: at % len(content)])
    elif how == "extend":
        file.write_bytes(bytes(content) + CODE)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "add":
        new.write_bytes(CODE)
    elif how == "remove":
        file.unlink()
    elif how == "rename":
        file.rename(new)
    else:
        elsewhere = Path("elsewhere")
        shutil.move(file, elsewhere)
        file.symlink_to(elsewhere.absolute()) if how == "link" else os.link(elsewhere, file)
    with pytest.MonkeyPatch.context() as patch:
        if number == SIGNED:
            patch.setenv("TEMPER_VERIFY_KEY", "own.pub")
        try:
            with pytest.raises(TemperError, match=f"version {number} of digits"):
                opened(number)
            assert not Path("harm").exists()
        finally:
            Path("elsewhere").unlink(missing_ok=True)
            restore()
