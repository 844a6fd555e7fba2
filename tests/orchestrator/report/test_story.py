"""Attempts and times out of events and metrics, worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.report.record import read_record
from orchestrator.report.story import Step, attempts_of, time_spent
from tests.orchestrator.report.told_run import BEGAN, HOSTILE, write_images_run


def test_attempts_end_as_the_events_say(tmp_path: Path) -> None:
    record = read_record(write_images_run(tmp_path))
    seen = [(a.number, a.began - BEGAN, (a.ended or 0) - BEGAN, a.first_step, a.last_step, a.end, a.cause)
            for a in record.attempts]  # fmt: skip
    assert seen == [
        (1, 10, 30, 0, 4, "failed", f"bug: {HOSTILE}"),
        (2, 40, 50, 3, 5, "saved", "preempted"),
        (3, 60, 90, 5, 7, "finished", ""),
    ]
    assert [step.step for step in record.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [step.attempt for step in record.steps] == [1, 1, 1, 2, 2, 3, 3]
    assert [(step.step, step.attempt) for step in record.superseded] == [(4, 1)]


def test_an_attempt_without_an_end_goes_on_or_was_cut_off() -> None:
    events = [{"event": "attempt_started", "time": 5.0, "attempt": 1, "step": 0, "world_size": 1}]
    steps = [Step.of({"step": 3, "attempt": 1, "time": 9.0}, 8)]
    (going,) = attempts_of(events, steps, is_going=True)
    assert (going.ended, going.end) == (None, "running")
    (gone,) = attempts_of(events, steps, is_going=False)
    assert (gone.ended, gone.end, gone.last_step) == (9.0, "cut off", 3)


def test_where_the_time_went(tmp_path: Path) -> None:
    """A step takes 2 s, 0.5 of which it waits. Attempt 1 begins at 10 and ends its first step at 22, attempt 2 at 40
    and 48, attempt 3 at 60 and 72."""
    record = read_record(write_images_run(tmp_path))
    spent = time_spent(record.attempts, record.steps, record.superseded, record.events, record.ended)
    assert spent.computing == pytest.approx(7 * 1.5)
    assert spent.data_wait == pytest.approx(7 * 0.5)
    assert spent.again == pytest.approx(2)
    assert spent.starting == pytest.approx((20 - 10) + (46 - 40) + (70 - 60))
    assert spent.saving == pytest.approx((30 - 20 - 8) + 0 + (90 - 70 - 4))
    assert spent.between == pytest.approx(10 + 10)
    assert spent.evaluating == pytest.approx(10)
