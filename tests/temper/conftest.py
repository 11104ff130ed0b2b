"""Fixtures that the tests of components have: a store with registered versions."""

from __future__ import annotations

from tests.components.conftest import decide, empty_store, make_build
from tests.components.packages import keyed, restored, store

__all__ = ["decide", "empty_store", "keyed", "make_build", "restored", "store"]
