"""What a result says of how a run ended."""

from __future__ import annotations

from typing import Any

import pytest

from evoprune.run import status_after_finetuning


@pytest.mark.parametrize(
    ("own", "back"),
    [
        ("complete", "complete"),
        ("ended at sparsity 0.92, below the 0.99 asked for, because the floor no longer held", None),
        ("the validation score 0.85 is below the floor 0.9; the time was up", "complete"),
    ],
)
def test_a_score_that_comes_back_above_the_floor_gives_the_status_back(own: str, back: str | None) -> None:
    summary: dict[str, Any] = {"floor": 0.9, "status": own}
    summary["status"] = status_after_finetuning(summary, 0.8)
    assert summary["status"] == "the validation score 0.8000 is below the floor 0.9000"
    assert status_after_finetuning(summary, 0.95) == (back or own)
