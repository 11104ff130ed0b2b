"""A data set of the Hugging Face hub, or a folder laid out like one, through `datasets`. No code of a data set runs."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from components.errors import DataError
from components.hashing import sha256_files_known

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from components.params import Hub

BATCH_ROWS = 256
TIMEOUT_S = 20
TOO_MANY = 429
WAITS_S = (1.0, 4.0)  # before the second and the third time that the hub is asked


def observe(params: Hub, earlier: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The commit that `revision` names now, or one sha256 over a folder; what cannot be asked is an error."""
    what = {"kind": params.kind, "dataset": params.dataset, "config": params.config}
    root = Path(params.dataset)
    if not root.is_dir():
        return {**what, "sha256": _commit(params)}, {}
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    try:
        sha256, stat = sha256_files_known(root, names, earlier)
    except OSError as error:
        raise DataError(f"source.dataset {error.filename}: cannot be read: {error.strerror}") from None
    return {**what, "sha256": sha256}, stat


@contextlib.contextmanager
def _online() -> Iterator[None]:
    """Stages run offline (host.QUIET); this is the one place that may ask the hub. Telemetry stays off."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {"HF_HUB_OFFLINE": "0"}))
        for module in ("huggingface_hub.constants", "datasets.config"):  # read once, when imported
            if module in sys.modules:
                stack.enter_context(patch.object(sys.modules[module], "HF_HUB_OFFLINE", False))
        yield


def _commit(params: Hub) -> str:
    """The sha of the commit. Raises DataError."""
    where = f"source.dataset {params.dataset}"
    with _online():
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        try:
            sha = _patiently(lambda: api.dataset_info(params.dataset, revision=params.revision, timeout=TIMEOUT_S).sha)
        except HFValidationError:
            raise DataError(f"{where}: is no folder here and no id of a data set (owner/name); correct it") from None
        except GatedRepoError:
            raise DataError(f"{where}: its owner must let you in; ask there, and set HF_TOKEN") from None
        except RevisionNotFoundError:
            raise DataError(f"{where}: has no revision {params.revision!r}; correct source.revision") from None
        except RepositoryNotFoundError:
            raise DataError(f"{where}: {api.endpoint} has no such data set, or it is private (HF_TOKEN)") from None
        except Exception as error:  # noqa: BLE001 - whatever the HTTP client of the day raises: not knowing is not "unchanged"
            reason = (str(error).splitlines() or [""])[0]
            raise DataError(
                f"{where}: cannot reach {api.endpoint}: {type(error).__name__}: {reason}; "
                "try again, or name a folder with a copy"
            ) from None
    if not sha:
        raise DataError(f"{where}: {api.endpoint} names no commit; try again")
    return str(sha)


def _patiently(ask: Callable[[], str | None]) -> str | None:
    """A server that is away, too busy or broken for a moment is asked again; an answer is an answer, also a refusal."""
    for wait_s in WAITS_S:
        try:
            return ask()
        except Exception as error:  # of the HTTP client of the day
            status = getattr(getattr(error, "response", None), "status_code", None)
            if isinstance(error, ValueError) or (status is not None and status != TOO_MANY and status < 500):
                raise
            time.sleep(wait_s)
    return ask()


def read(params: Hub) -> pa.RecordBatchReader:
    """The data set's columns: images as struct{bytes, path}, classes by name; and split, unless the part is `all`."""
    import pyarrow as pa

    local = Path(params.dataset).is_dir()
    revision = None if local else _commit(params)
    stack = contextlib.ExitStack()
    # A folder's copies in the cache are told apart by time stamps only; a commit's are what they were.
    cache = stack.enter_context(tempfile.TemporaryDirectory()) if local else None
    try:
        parts = {part: _load(params, split, revision, cache) for part, split in params.splits.items()}
        schemas = {part: next(_rows(rows, part, params)).schema for part, rows in parts.items()}
    except BaseException:
        stack.close()
        raise
    first, schema = next(iter(schemas.items()))
    for part, found in schemas.items():
        if found != schema:
            stack.close()
            raise DataError(f"source.splits: {part} has columns {found.names} of other types than {first}")

    def batches() -> Iterator[pa.RecordBatch]:
        with stack:
            for part, rows in parts.items():
                yield from _rows(rows, part, params)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _load(params: Hub, split: str, revision: str | None, cache: str | None) -> datasets.Dataset:
    where = f"source.dataset {params.dataset}"
    with contextlib.nullcontext() if cache else _online():
        import datasets

        datasets.disable_progress_bars()
        try:
            rows = datasets.load_dataset(params.dataset, params.config, split=split, revision=revision, cache_dir=cache)
        except Exception as error:  # noqa: BLE001 - of many libraries: formats, configs, splits, network, disk
            reason = (str(error).splitlines() or [""])[0]
            raise DataError(f"{where}, split {split!r}: cannot be loaded: {type(error).__name__}: {reason}") from None
    if not len(rows):
        raise DataError(f"{where}, split {split!r}: has no rows; check source.splits")
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def _names(feature: datasets.ClassLabel, column: str, params: Hub) -> list[str]:
    """What the classes are called. Raises DataError if the data set has not as many."""
    if params.class_names is not None and len(params.class_names) != len(feature.names):
        raise DataError(
            f"source.class_names: has {len(params.class_names)} names, column {column!r} of {params.dataset} has "
            f"{len(feature.names)} classes: {feature.names[:20]}"
        )
    return list(params.class_names or feature.names)


def _refuse_strangers(column: pa.ChunkedArray, name: str, params: Hub) -> None:
    """Raise DataError if a row names a file outside the data set: `datasets` would read any on this machine."""
    import datasets
    import huggingface_hub.constants as hub

    folder = Path(params.dataset)
    roots = [folder] if folder.is_dir() else [Path(hub.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)]
    for value in column.to_pylist():
        if value and value["bytes"] is None and value["path"] is not None:
            path = Path(value["path"]).resolve()
            if not any(path.is_relative_to(root.resolve()) for root in roots):
                raise DataError(
                    f"source.dataset {params.dataset}: column {name!r} names {value['path']}, a file outside "
                    "the data set; images must be in it"
                )


def _rows(rows: datasets.Dataset, part: str, params: Hub) -> Iterator[pa.RecordBatch]:
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets.table import embed_table_storage

    for table in rows.with_format("arrow").iter(BATCH_ROWS):
        for name, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                _refuse_strangers(table[name], name, params)
        table = embed_table_storage(table)
        for i, (name, feature) in enumerate(rows.features.items()):
            if isinstance(feature, datasets.ClassLabel):
                known = pc.if_else(pc.less(table[name], 0), None, table[name])  # -1: no label
                names = pa.array(_names(feature, name, params), pa.string())
                table = table.set_column(i, name, pc.take(names, known.combine_chunks()))
        if part != "all":
            table = table.append_column("split", pa.array([part] * len(table), pa.string()))
        yield table.replace_schema_metadata(None).combine_chunks().to_batches()[0]
