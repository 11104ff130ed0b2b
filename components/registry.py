"""Where runs and models are kept, and reading the registry without importing MLflow (which takes seconds).

Embedded: SQLite at mlruns/mlflow.db and files in mlruns/artifacts. A server: its address in MLFLOW_TRACKING_URI.
Writing is `components.versions`'.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from components import rest
from components.errors import TemperError
from components.redaction import has_credentials

JOURNALLED = "temper.journalled"  # tag of the registered model: number and sha256 of the journal's line it is at
SCHEMA = "dc11669786a5"  # of the database, by MLflow's migrations; of the version in pyproject.toml


def root() -> Path:
    """The checkout that owns mlruns/. DVC names it to experiments that it runs in a folder of its own.

    The standing worktree of a preset, <checkout>/.temper/presets/<name>, shares that of its checkout.
    """
    found = Path(os.environ.get("TEMPER_ROOT") or os.environ.get("DVC_ROOT") or ".").resolve()
    return found.parents[2] if found.parent.parts[-2:] == (".temper", "presets") else found


def mlruns() -> Path:
    return root() / "mlruns"


def beside() -> Path:
    """Where what belongs to the store is kept on this machine: journal and locks."""
    return file.parent if (file := database()) else mlruns()


def address() -> str:
    """Absolute address of the tracking store and the registry. Raises TemperError for one that cannot work."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not given:
        return f"sqlite:///{mlruns() / 'mlflow.db'}"
    parts = urlsplit(given)
    if has_credentials(given):  # it would be shown with every message and link
        raise TemperError(
            "MLFLOW_TRACKING_URI: must not hold credentials; give them in MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if parts.scheme in ("http", "https") and parts.netloc:
        return given.rstrip("/")
    if parts.scheme == "sqlite" and given.startswith("sqlite:////"):
        return given
    if parts.scheme.partition("+")[0] in ("postgresql", "mysql", "mssql"):
        raise TemperError(
            f"MLFLOW_TRACKING_URI: Temper does not write to a {parts.scheme} database itself; "
            f"start `mlflow server --backend-store-uri ...` on it and give that server's address"
        )
    raise TemperError(
        f"MLFLOW_TRACKING_URI: must be http(s)://host:port or sqlite:////absolute/path.db, got {given!r:.100}; "
        f"unset it to track under {mlruns()}"
    )


def database() -> Path | None:
    """The SQLite file, or None if the store is a server."""
    where = address()
    return Path(unquote(where.removeprefix("sqlite:///"))) if where.startswith("sqlite:") else None


@dataclass(frozen=True)
class Version:
    """One version of a registered model; `source` is where its files are (a path below `root()` if they are ours)."""

    version: int
    source: str
    tags: Mapping[str, str]

    @property
    def digest(self) -> str | None:
        return self.tags.get("digest")


@dataclass(frozen=True)
class Registered:
    """A registered model: alias to version number, and its tags."""

    aliases: Mapping[str, int]
    tags: Mapping[str, str]

    @property
    def journalled(self) -> str | None:
        """The line of the journal whose move was last carried out, as `journal.Line.mark`."""
        value = self.tags.get(JOURNALLED, "")
        return value if value.partition(" ")[0].isdigit() else None


def registered(name: str) -> Registered:
    """The registered model `name`; empty if there is none yet."""
    if (file := database()) is None:
        try:
            found = rest.get(address(), "registered-models/get", "registered_model", name=name)
        except LookupError:
            return Registered({}, {})
        return Registered({a["alias"]: int(a["version"]) for a in found.get("aliases", [])}, _tags(found))
    aliases = _query(file, "SELECT alias, version FROM registered_model_aliases WHERE name = ?", name)
    tags = _query(file, "SELECT key, value FROM registered_model_tags WHERE name = ?", name)
    return Registered({alias: int(version) for alias, version in aliases}, dict(tags))


def version(name: str, number: int) -> Version | None:
    if (file := database()) is None:
        where, asked = address(), {"name": name, "version": str(number)}
        try:
            found = rest.get(where, "model-versions/get", "model_version", **asked)
            source = rest.get(where, "model-versions/get-download-uri", "artifact_uri", **asked)
        except LookupError:
            return None
        return Version(number, source, _tags(found))
    rows = _query(
        file,
        "SELECT COALESCE(storage_location, source) FROM model_versions"
        " WHERE name = ? AND version = ? AND current_stage <> 'Deleted_Internal'",
        name,
        number,
    )
    tags = _query(file, "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", name, number)
    return Version(number, _own(rows[0][0]), dict(tags)) if rows else None


def versions(name: str) -> list[Version]:
    """All versions that were not deleted, oldest first."""
    if (file := database()) is None:
        quoted = name.replace("'", "")
        entries = rest.pages(address(), "model-versions/search", "model_versions", filter=f"name = '{quoted}'")
        found = [Version(int(entry["version"]), entry.get("source", ""), _tags(entry)) for entry in entries]
        return sorted(found, key=lambda entry: entry.version)
    sql = "SELECT version FROM model_versions WHERE name = ? AND current_stage <> 'Deleted_Internal' ORDER BY version"
    listed = (version(name, int(row[0])) for row in _query(file, sql, name))
    return [entry for entry in listed if entry is not None]


def names() -> list[str]:
    """Every registered model of the store; the journal, which a server keeps as one, is among them."""
    if (file := database()) is not None:
        return sorted(row[0] for row in _query(file, "SELECT name FROM registered_models"))
    return sorted(entry["name"] for entry in rest.pages(address(), "registered-models/search", "registered_models"))


def champion(name: str) -> Version | None:
    """The version that the alias `champion` points to."""
    number = registered(name).aliases.get("champion")
    return version(name, number) if number is not None else None


def find(name: str, which: str) -> Version:
    """The version that a number or an alias names. Raises TemperError that says which there are."""
    aliases = registered(name).aliases
    number = int(which) if which.isdigit() and len(which) < 10 else aliases.get(which)
    found = version(name, number) if number is not None else None
    if found is None:
        told = ", ".join(f"{alias} is {at}" for alias, at in sorted(aliases.items()))
        told = told or "none is registered yet; `temper run` makes one"
        raise TemperError(f"{name} has no version {which[:50]} ({told})")
    return found


def with_digest(name: str, digest: str) -> Version | None:
    """The newest version whose build has these bytes."""
    if (file := database()) is None:
        escaped = digest.replace("'", "")
        wanted = f"name = '{name}' AND tag.`digest` = '{escaped}'"
        answer = rest.get(address(), "model-versions/search", "", filter=wanted, max_results=50)
        numbers = [int(entry["version"]) for entry in answer.get("model_versions", [])]
    else:
        numbers = [
            int(row[0])
            for row in _query(
                file,
                "SELECT version FROM model_version_tags WHERE name = ? AND key = 'digest' AND value = ?",
                name,
                digest,
            )
        ]
    found = (version(name, number) for number in sorted(numbers, reverse=True))
    return next((entry for entry in found if entry is not None), None)


def tracked(run: str) -> tuple[str, str] | None:
    """(experiment, run) by which the tracking store knows a pipeline run; None if it is not there, or on a server."""
    if (file := database()) is None:
        return None
    rows = _query(
        file,
        "SELECT runs.experiment_id, runs.run_uuid FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid"
        " WHERE tags.key = 'temper.record' AND tags.value = ?",
        run,
    )
    return (str(rows[0][0]), str(rows[0][1])) if rows else None


def running() -> list[tuple[str, str, dict[str, str]]]:
    """(id, name, tags) of each run that claims to be at work, by the embedded store; none on a server."""
    if (file := database()) is None:
        return []
    rows = _query(file, "SELECT run_uuid, name FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'")
    tags = "SELECT key, value FROM tags WHERE run_uuid = ?"
    return [(str(run), str(name), dict(_query(file, tags, run))) for run, name in rows]


def files(source: str) -> Path | None:
    """The folder that `source` names if it is on this machine, else None (then it must be downloaded)."""
    parts = urlsplit(source)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return root() / source if not parts.scheme else None


def _own(source: str) -> str:
    """Paths below the root relative to it: an absolute one would differ from machine to machine."""
    path = files(source)
    return str(path.relative_to(root())) if path and path.is_relative_to(root()) else source


def _tags(entity: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in entity.get("tags", [])}


def _query(file: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    if not file.exists():
        return []
    try:
        connection = sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        if "no such column" in str(error):
            raise older(file, "an older schema") from None
        raise TemperError(f"{file}: cannot be read: {error}; is another program holding it open?") from None
    except sqlite3.DatabaseError as error:
        raise TemperError(
            f"{file}: is no database that can be read ({error}); restore it, or move it away to start anew"
        ) from None


def check_schema(file: Path) -> None:
    """Refuse a database of another MLflow: this one would migrate it on the way, without a copy.

    Raises TemperError with the command that upgrades it. A file that is not there is fine.
    """
    rows = _query(file, "SELECT version_num FROM alembic_version")
    if not rows and file.exists():
        raise TemperError(f"{file}: is no tracking database; restore it, or move it away to start anew")
    if rows and rows[0][0] != SCHEMA:
        raise older(file, f"schema {rows[0][0]}")


def older(file: Path, found: str) -> TemperError:
    """What to do about a database that this MLflow cannot use; it is never changed unasked."""
    return TemperError(
        f"{file}: has {found}, not that of the installed MLflow, and is not touched; stop what uses it, keep a copy, "
        f"then upgrade it: cp {file} {file}.before && mlflow db upgrade sqlite:///{file}"
    )
