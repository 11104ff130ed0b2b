"""Signatures of registered versions: OpenSSF model-signing with the user's own key, offline.

The signature is a Sigstore bundle over a manifest of every file's sha256; `model_signing verify key` reads it too.
Keys: TEMPER_SIGNING_KEY, TEMPER_VERIFY_KEY, else `policy.signing` in params.yaml. Only the private one is secret.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import registry
from components.errors import ParamsError, TemperError

MAKE = "`temper key` makes a pair"


@dataclass(frozen=True)
class Keys:
    """What signs and what verifies; `pem`: the public key, empty without one."""

    private: Path | None = None
    pem: bytes = b""
    required: bool = False

    @property
    def verifies(self) -> bool:
        return bool(self.pem)

    @property
    def fingerprint(self) -> str:
        """Of the public key, as model-signing writes it into its signatures."""
        return hashlib.sha256(self.pem).hexdigest()[:16]


def configured(policy: Mapping[str, Any] | None = None) -> Keys:
    """The keys of this workspace. Raises ParamsError if one that is named cannot be used.

    `policy`: the section policy.signing; read from params.yaml if not given.
    """
    if policy is None:
        policy = _policy()
    private, named_private = _path("TEMPER_SIGNING_KEY", policy, "key")
    public, named_public = _path("TEMPER_VERIFY_KEY", policy, "public_key")
    pem = _private(private, named_private) if private else b""
    if public is not None:
        if (given := _public(public, named_public)) != pem and private:
            raise ParamsError(
                [f"{named_public}: {public} is not the public half of {private}; name the pair, or one of them"]
            )
        pem = given
    required = bool(policy.get("required"))
    if required and not pem:
        raise ParamsError(
            [f"policy.signing.required: is true, but neither TEMPER_SIGNING_KEY nor TEMPER_VERIFY_KEY is set; {MAKE}"]
        )
    return Keys(private, pem, required)


def _policy() -> Mapping[str, Any]:
    from components import params

    path = Path("params.yaml")
    signing = params.load(path).policy.signing if path.exists() else None
    return signing.model_dump() if signing else {}


def _path(variable: str, policy: Mapping[str, Any], key: str) -> tuple[Path | None, str]:
    """(the file, what names it); a relative path in params.yaml is below the main checkout."""
    if given := os.environ.get(variable):
        return Path(given), variable
    named = policy.get(key)
    return (registry.root() / named if named else None), f"policy.signing.{key}"


def _public(path: Path, named: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return _pem(load_pem_public_key(_content(path, named)), path, named)
    except (ValueError, TypeError) as error:
        raise ParamsError([f"{named}: {path} is no public key in PEM ({_short(error)}); {MAKE}"]) from None


def _private(path: Path, named: str) -> bytes:
    """The public half, in PEM, of a private key that only its owner can read."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _content(path, named)
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ParamsError(
            [
                f"{named}: {path} can be read or changed by others (mode {mode:04o}); chmod 600 it, and make a new "
                f"pair if others may have read it"
            ]
        )
    if kept := _in_git(path):
        raise ParamsError([f"{named}: {kept}"])
    try:
        return _pem(load_pem_private_key(content, None).public_key(), path, named)
    except (ValueError, TypeError) as error:
        raise ParamsError(
            [f"{named}: {path} is no private key in PEM without a password ({_short(error)}); {MAKE}"]
        ) from None


def _content(path: Path, named: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ParamsError([f"{named}: {path} cannot be read: {error.strerror}; correct it; {MAKE}"]) from None


def _pem(key: object, path: Path, named: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ParamsError([f"{named}: {path} must be an elliptic-curve key on P-256; {MAKE}"])
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _in_git(path: Path) -> str | None:
    """Why a private key must not lie there, or None: a run of a preset keeps in git all that git does not ignore."""
    try:
        done = subprocess.run(
            ["git", "check-ignore", "-q", path.name], cwd=path.parent, capture_output=True, check=False
        )
    except OSError:
        return None
    if done.returncode != 1:  # 0: ignored, 128: no git checkout
        return None
    return f"{path} is in a git checkout that does not ignore it, and could be committed; keep it outside"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def make(path: Path) -> tuple[Path, str]:
    """Write a new private key to `path`, readable by its owner only, and the public one to `path`.pub.

    Returns (the public one's path, its fingerprint). Raises TemperError rather than write over a file.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    public = path.with_name(path.name + ".pub")
    for there in (path, public):
        if there.exists() or there.is_symlink():
            raise TemperError(f"{there}: is there already, and is never written over; name another file")
    if kept := _in_git(path):
        raise TemperError(f"{kept}, as ~/.config/{path.name}")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = _pem(key.public_key(), path, "the new key")
    try:
        _new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        _new(public, pem, 0o644)
    except OSError as error:
        raise TemperError(f"{error.filename}: cannot be written: {error.strerror}; name another file") from None
    return public, Keys(path, pem).fingerprint


def _new(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def _hashed(besides: Iterable[str]) -> Any:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[Path(name) for name in besides], ignore_git_paths=False)


def sign(folder: Path, signature: str, besides: Iterable[str], private: Path) -> None:
    """Write the signature of every file below `folder`, but for it and `besides`, to this name there."""
    from model_signing import signing

    signer = signing.Config().use_elliptic_key_signer(private_key=private)
    signer.set_hashing_config(_hashed([signature, *besides])).sign(folder, folder / signature)


def verify(folder: Path, signature: str, keys: Keys, what: str) -> None:
    """Raises TemperError unless the signature is that of `keys` over just the files below `folder`, as they are."""
    from model_signing import verifying

    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        public = Path(scratch, "key.pub")
        public.write_bytes(keys.pem)
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
        try:
            verifier.set_hashing_config(_hashed([signature])).verify(folder, folder / signature)
        except Exception as error:  # of four libraries: bundle, protobuf, cryptography, model-signing
            reason = " ".join(str(error).split()).rstrip(".")[:300] or "it was not made by this key over this manifest"
            raise TemperError(
                f"{what}: its signature is not that of key {keys.fingerprint} over its files: {reason}; go back to a "
                f"version that is whole, or give the key that signed it"
            ) from error
