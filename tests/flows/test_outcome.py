"""What a run's end says to the shell."""

from __future__ import annotations

import pytest

from flows.outcome import Outcome
from flows.runner import StageFailed


@pytest.mark.parametrize(
    ("codes", "code"), [([], 0), ([3], 3), ([4, 4], 4), ([3, 4], 1), ([1], 1), ([137], 1), ([-9], 1)]
)
def test_exit_code(codes: list[int], code: int) -> None:
    failed = {str(i): StageFailed(str(i), number, "") for i, number in enumerate(codes)}
    assert Outcome("run", failed=failed).exit_code == code
    assert Outcome("run", failed_cells=["base/fp32"]).exit_code == 1
    assert Outcome("run", stale={"a": []}).exit_code == 1
