"""`temper up` with Prefect on a real PostgreSQL: by its address, and nothing else is different."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flows import group as groups
from tests.infra.native import Group
from tests.temper.test_up import Up

NAME = "PREFECT_SERVER_DATABASE_CONNECTION_URL"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Up:
    return Up(tmp_path_factory.mktemp("up") / "ws")


@pytest.fixture(scope="module")
def database(up: Up) -> Iterator[Group]:
    started = Group(up.folder)
    try:
        started.up("postgres")
        yield started
    finally:
        if groups.read(up.folder):
            up("down")
        started.close()


def test_runs_are_kept_in_postgresql_and_found_there_again(up: Up, database: Group) -> None:
    password = database.secret("prefect_database_password")
    address = f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{database.ports['5432']}/prefect"
    said = up("up", "--detach", **{NAME: address})
    run = up.trigger()
    name, message = up.ended(run)
    assert name == "Completed", message
    said += up("down")
    said += up("up", "--detach", **{NAME: address})
    assert up.state(run)[0] == "Completed"
    said += up("down")
    assert database.query("prefect", "SELECT state_type FROM flow_run WHERE state_type <> 'SCHEDULED'") == "COMPLETED"
    assert not list(up.folder.rglob("prefect.db"))
    assert password not in said
    files = [path for path in (up.folder / ".temper").rglob("*") if path.is_file()]
    assert not [path for path in files if password.encode() in path.read_bytes()]
