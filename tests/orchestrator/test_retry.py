"""The retry policy, a pure function."""

from __future__ import annotations

from jobspecs.retry import Retry
from orchestrator.retry import Again, GiveUp, decide


def test_attempts_are_repeated_up_to_their_number() -> None:
    retry = Retry(max_attempts=3, delay_seconds=1.5)
    assert [decide(failed, retry) for failed in (1, 2, 3)] == [
        Again(1.5),
        Again(1.5),
        GiveUp("3 of 3 attempts failed (retry.max_attempts)"),
    ]
