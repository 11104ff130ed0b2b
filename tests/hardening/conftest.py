"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def sound() -> Callable[[Path], None]:
    """Fails if what must hold at any time does not hold in a workspace."""
    return lambda folder: None
