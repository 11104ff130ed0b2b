"""Real storage servers on loopback: see tests/infra/storage.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infra import storage


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.Storage]:
    with storage.s3(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.Storage]:
    with storage.ssh(tmp_path_factory.mktemp("ssh") / "data") as server:
        yield server
