"""Prefect's server with the libraries that the lock has."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flows import server


def test_what_the_scheduler_plans_can_be_inserted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows have a key `state`. SQLAlchemy 2.1 refuses that: no schedule starts a run, and only a log says so."""
    monkeypatch.chdir(tmp_path)
    for name, value in server.settings().items():
        monkeypatch.setenv(name, value)
    from prefect.server.database.orm_models import FlowRun

    engine = sa.create_engine("sqlite://")
    with Session(engine) as session:
        session.execute(sa.text(f"CREATE TABLE flow_run ({', '.join(FlowRun.__table__.columns.keys())})"))
        row = {"id": uuid.uuid4(), "name": "planned", "flow_id": uuid.uuid4(), "state": {"type": "SCHEDULED"}}
        session.execute(sa.insert(FlowRun), [row])
        assert session.scalars(sa.text("SELECT name FROM flow_run")).all() == ["planned"]
