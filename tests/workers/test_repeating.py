"""Work that is repeated beside everything else: at once, until it is done or stopped, and then once more."""

from __future__ import annotations

import threading

import pytest

from workers.repeating import Repeating


@pytest.mark.parametrize("once_more", [False, True])
def test_it_is_done_at_once_and_then_until_it_is_closed(once_more: bool) -> None:
    calls: list[int] = []
    enough = threading.Event()

    def work() -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            enough.set()
            repeating.stop()

    repeating = Repeating("three times", 0.0, work, once_more=once_more)
    with repeating:
        assert enough.wait(60)
    assert len(calls) == (4 if once_more else 3)


def test_what_is_done_is_not_done_again() -> None:
    calls: list[str] = []
    with Repeating("once", 0.0, lambda: bool(calls.append("done") or True), once_more=True) as repeating:
        assert repeating.join(60)
    assert calls == ["done"]


def test_stopping_does_not_wait_and_closing_does() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert may_end.wait(60)
        ended.set()

    repeating = Repeating("slow", 60.0, work)
    repeating.start()
    assert begun.wait(60)
    repeating.stop()
    assert not repeating.join(0.01)
    may_end.set()
    repeating.close()
    assert ended.is_set()
