"""Prefect's server application, with what it lacks under SQLAlchemy 2.1: without it no schedule ever starts a run.

Prefect 3.8.8 inserts what its scheduler plans in bulk, each row with a key `state`, which it stores afterwards itself.
SQLAlchemy 2.0 ignored such a key; 2.1 refuses it, as `FlowRun.state` does not say what a bulk insert does with it.
"""

from __future__ import annotations

from typing import Any


def create_app() -> Any:
    """For `uvicorn --factory`: prefect.server.api.server.create_app, its scheduler able to insert."""
    from prefect.server.api.server import create_app as create
    from prefect.server.database.orm_models import FlowRun

    state: Any = FlowRun.__mapper__.all_orm_descriptors["state"]
    if getattr(state, "bulk_dml_setter", ...) is None:
        state.inplace.bulk_dml(_stored_apart)
    return create()


def _stored_apart(_cls: type[Any], _row: dict[str, Any], _state: Any) -> None:
    """A bulk insert leaves the state out."""
