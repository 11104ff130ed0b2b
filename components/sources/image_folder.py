"""A folder of image files: <path>/<class>/<file>, or <path>/<split>/<class>/<file>. Hidden files are not looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.hashing import sha256_files_known

if TYPE_CHECKING:
    import pyarrow as pa

    from components.params import ImageFolder

BATCH_BYTES = 16 << 20
BATCH_ROWS = 4096
SPLITS = {"train", "validation", "calibration", "test"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def observe(params: ImageFolder, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """One sha256 over all names and bytes; each file's stats, so that only those that differ are hashed again."""
    _, files = _files(params)
    try:
        sha256, stat = sha256_files_known(Path(params.path), files, earlier)
    except OSError as error:
        raise DataError(f"source.path {error.filename}: cannot be read: {error.strerror}") from None
    return {"kind": params.kind, "path": params.path, "files": len(files), "sha256": sha256}, stat


def read(params: ImageFolder) -> pa.RecordBatchReader:
    """image (the file's bytes), label (its folder), file (its path below `path`) and, if folders say it, split."""
    import pyarrow as pa

    with_split, files = _files(params)
    root, most = Path(params.path), params.max_file_mb * 1e6
    fields = [("image", pa.binary()), ("label", pa.string()), ("file", pa.string())]
    schema = pa.schema([*fields, *([("split", pa.string())] if with_split else [])])
    try:
        large = [f"{name} ({size / 1e6:.1f} MB)" for name in files if (size := (root / name).stat().st_size) > most]
    except OSError as error:
        raise DataError(f"source.path {error.filename}: cannot be read: {error.strerror}") from None
    if large:
        shown = ", ".join(large[:5])
        raise DataError(
            f"source.path {params.path}: {len(large)} files are larger than source.max_file_mb {params.max_file_mb:g}: "
            f"{shown}; shrink or remove them, or raise it"
        )

    def batch(images: list[bytes], names: list[str]) -> pa.RecordBatch:
        parts = [name.split("/") for name in names]
        columns = [images, [part[-2] for part in parts], names, [part[0] for part in parts]]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=False)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def batches() -> Iterator[pa.RecordBatch]:
        images: list[bytes] = []
        names: list[str] = []
        size = 0
        for name in files:
            try:
                images.append((root / name).read_bytes())
            except OSError as error:
                raise DataError(f"source.path {root / name}: cannot be read: {error.strerror}") from None
            names.append(name)
            size += len(images[-1])
            if size >= BATCH_BYTES or len(names) >= BATCH_ROWS:
                yield batch(images, names)
                images, names, size = [], [], 0
        if names:
            yield batch(images, names)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _files(params: ImageFolder) -> tuple[bool, list[str]]:
    """(whether the first folders are splits, paths of all images below `path`, sorted)."""
    root, where = Path(params.path), f"source.path {params.path}"
    inside = root.resolve()

    def listed(entry: os.DirEntry[str]) -> str:
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
            raise DataError(f"{where}: {entry.path} is a link that leads outside; copy what it names, or remove it")
        return entry.name

    def checked(folder: Path) -> tuple[list[Path], list[Path]]:
        with os.scandir(folder) as scan:
            found = sorted((e for e in scan if not e.name.startswith(".")), key=listed)
        return [Path(e.path) for e in found if e.is_dir()], [Path(e.path) for e in found if not e.is_dir()]

    try:
        tops, stray = checked(root)
        splits = {folder.name for folder in tops} & SPLITS
        if splits and len(splits) < len(tops):
            others = [folder.name for folder in tops if folder.name not in splits][:5]
            raise DataError(
                f"{where}: {sorted(splits)} are names of splits, {others} are not; have either splits or classes there"
            )
        classes: list[Path] = []
        for top in tops if splits else []:
            folders, files = checked(top)
            classes, stray = [*classes, *folders], [*stray, *files]
        images: list[Path] = []
        for folder in classes if splits else tops:
            folders, files = checked(folder)
            images += [path for path in files if path.suffix.lower() in SUFFIXES]
            stray += [*folders, *(path for path in files if path.suffix.lower() not in SUFFIXES)]
    except OSError as error:
        raise DataError(f"source.path {error.filename}: cannot be read: {error.strerror}; correct the path") from None
    if stray:
        shown = ", ".join(str(path.relative_to(root)) for path in stray[:5])
        raise DataError(
            f"{where}: {len(stray)} files or folders are no images of a class ({', '.join(SUFFIXES)} in "
            f"<class>/ or <split>/<class>/): {shown}; move or remove them"
        )
    if not images:
        raise DataError(f"{where}: holds no image; images lie in <class>/ or <split>/<class>/")
    return bool(splits), sorted(path.relative_to(root).as_posix() for path in images)
