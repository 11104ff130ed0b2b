from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from ruamel.yaml import YAML

from components import observe, promote, registry, signing
from components.errors import ParamsError, TemperError


@pytest.fixture
def keys(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the pairs `own` and `other`; none is configured."""
    for name in ("TEMPER_SIGNING_KEY", "TEMPER_VERIFY_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("own", "other"):
        signing.make(Path(name))
    return workspace


def set_policy(**section: Any) -> None:
    yaml, path = YAML(), Path("params.yaml")
    raw = yaml.load(path.read_text("utf-8"))
    raw["policy"]["signing"] = section
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(raw, file)


def test_a_pair_is_made_for_its_owner_only_and_never_written_over(keys: Path) -> None:
    assert stat.S_IMODE(Path("own").stat().st_mode) == 0o600
    before = Path("own").read_bytes()
    for there in ("own", "other"):
        with pytest.raises(TemperError, match=f"^{there}: is there already"):
            signing.make(Path(there))
    Path("other").unlink()
    with pytest.raises(TemperError, match=r"^other\.pub: is there already"):  # it would lose what verifies old versions
        signing.make(Path("other"))
    assert Path("own").read_bytes() == before and not Path("other").exists()
    with pytest.raises(TemperError, match="cannot be written: No such file"):
        signing.make(Path("nowhere/own"))


def test_a_private_key_is_not_kept_where_git_would_take_it(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.raises(TemperError, match=r"^new is in a git checkout that does not ignore it.*keep it outside"):
        signing.make(Path("new"))
    assert not Path("new").exists()
    monkeypatch.setenv("TEMPER_SIGNING_KEY", "own")
    with pytest.raises(ParamsError, match=r"^TEMPER_SIGNING_KEY: own is in a git checkout"):
        signing.configured()
    Path(".gitignore").write_text("own\nnew\n", "utf-8")
    assert signing.configured().private == Path("own")
    signing.make(Path("new"))


def test_without_keys_nothing_is_asked(keys: Path) -> None:
    assert signing.configured() == signing.Keys()


def test_environment_before_params(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_policy(required=True, key="own", public_key="own.pub")
    own = signing.configured()
    assert (own.private, own.pem, own.required) == (keys / "own", Path("own.pub").read_bytes(), True)
    monkeypatch.setenv("TEMPER_VERIFY_KEY", "other.pub")
    with pytest.raises(ParamsError, match=r"TEMPER_VERIFY_KEY: other\.pub is not the public half of .*own"):
        signing.configured()
    monkeypatch.setenv("TEMPER_SIGNING_KEY", "other")
    assert signing.configured().pem == Path("other.pub").read_bytes()
    monkeypatch.delenv("TEMPER_VERIFY_KEY")
    with pytest.raises(ParamsError, match=r"policy\.signing\.public_key: .*own\.pub is not the public half of other"):
        signing.configured()


def test_required_without_a_key_is_told_before_work(keys: Path) -> None:
    set_policy(required=True)
    with pytest.raises(ParamsError, match=r"policy\.signing\.required: is true, but neither .* `temper key`"):
        signing.configured()


def encrypted(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def plain(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "no PEM": (lambda: b"key", "is no private key in PEM"),
    "the public one": (lambda: Path("own.pub").read_bytes(), "is no private key in PEM"),
    "with a password": (lambda: encrypted(ec.generate_private_key(ec.SECP256R1())), "without a password"),
    "another curve": (lambda: plain(ec.generate_private_key(ec.SECP384R1())), "on P-256"),
    "another kind": (lambda: plain(ed25519.Ed25519PrivateKey.generate()), "on P-256"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_private_key_is_one_line(case: str, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, reason = WRONG[case]
    Path("wrong").touch(0o600)
    Path("wrong").write_bytes(content())
    monkeypatch.setenv("TEMPER_SIGNING_KEY", "wrong")
    with pytest.raises(ParamsError, match=f"^TEMPER_SIGNING_KEY: wrong .*{reason}") as error:
        signing.configured()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_private_key_that_others_can_read_is_refused(mode: int, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own").chmod(mode)
    monkeypatch.setenv("TEMPER_SIGNING_KEY", "own")
    with pytest.raises(ParamsError, match=rf"own can be read or changed by others \(mode 0{mode:o}\); chmod 600"):
        signing.configured()


@pytest.mark.parametrize("variable", ["TEMPER_SIGNING_KEY", "TEMPER_VERIFY_KEY"])
def test_a_missing_key_is_told_by_the_first_stage(variable: str, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components import params

    values = params.load().model_dump(mode="json", by_alias=True)
    wanted = {key: values[key] for key in ("name", "source", "prepare", "init", "variants", "targets", "policy")}
    monkeypatch.setenv(variable, "nowhere")
    with pytest.raises(ParamsError, match=f"^{variable}: nowhere cannot be read: No such file"):
        observe.run(**wanted, out=Path("out"), previous=None)
    assert not Path("out").exists()


@pytest.mark.hardening("J54", "unsigned, where the policy asks for a signature")
def test_a_public_key_alone_opens_but_does_not_promote(
    keys: Path, make_build: Callable[..., str], decide: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_policy(required=True, public_key="own.pub")
    assert signing.configured().private is None
    decision = decide("base/fp32", make_build("base", "fp32"))
    places = ("work/builds", "work/engines", "work/matrix", "work/data/prepared")
    with pytest.raises(
        TemperError, match=r"policy\.signing\.required: is true, but no private key.*TEMPER_SIGNING_KEY"
    ):
        promote._register("digits", decision["winner"], *map(Path, places))
    assert registry.version("digits", 1) is None


def test_wrong_public_key_is_one_line(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"", Path("own").read_bytes()):
        Path("wrong").write_bytes(content)
        monkeypatch.setenv("TEMPER_VERIFY_KEY", "wrong")
        with pytest.raises(ParamsError, match=r"^TEMPER_VERIFY_KEY: wrong is no public key in PEM"):
            signing.configured()
