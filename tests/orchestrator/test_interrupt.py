"""The request to stop a job, and the signals that make it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from orchestrator.interrupt import Interrupt, signals

MEANT = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def none_is_ignored() -> Iterator[None]:
    """Whoever started the tests may ignore some."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in MEANT}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("none_is_ignored")
@pytest.mark.parametrize("number", MEANT)
def test_the_first_signal_asks_and_the_second_stops(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in MEANT]
    interrupt = Interrupt()
    with signals(interrupt):
        os.kill(os.getpid(), number)
        assert interrupt.requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert [signal.getsignal(each) for each in MEANT] == before


def test_a_sighup_that_is_ignored_stays_so() -> None:
    """`nohup tandem run …` goes on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt = Interrupt()
        with signals(interrupt):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_process_outlives_a_job_in_a_thread_that_shall_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook that runs a job beside its main thread: nothing there would take the signal."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    interrupt = Interrupt()

    def job() -> None:
        with signals(interrupt):
            interrupt.at_once()

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert interrupt.requested()
    assert sent == []


def test_a_second_request_at_once_sends_no_second_signal() -> None:
    interrupt = Interrupt()
    with signals(interrupt):
        with pytest.raises(KeyboardInterrupt):
            interrupt.at_once()
        interrupt.at_once()
    assert not interrupt.has_handlers
