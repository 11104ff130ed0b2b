"""A registered version's files brought here whole: checked, compared with what the registry says, their signature.

`verified` gives a private copy: what was hashed and checked is what is opened, whatever happens to the store meanwhile.
Nothing of a package is executed or unpickled here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components import contents, registry, signing
from components.contents import BARRIER, BARRIER_TEXT, NOTE, SIGNATURE, refused
from components.errors import TemperError

UNSIGNED = "unsigned"


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
        contents.check(folder, files, what)
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
        contents.check(Path(scratch, "package"), files, what)
    tags = _signed(folder, files, keys)
    return tags, [folder / name for name in (BARRIER, SIGNATURE) if (folder / name).exists()]


def _signed(folder: Path, files: Mapping[str, str], keys: signing.Keys) -> dict[str, str]:
    """Sign if there is a key; the tags that say so."""
    if keys.private is None:
        return {"manifest": manifest(files), "signed": "no"}
    signing.sign(folder, SIGNATURE, [NOTE], keys.private)
    return {"manifest": manifest(files), "signed": keys.fingerprint}
