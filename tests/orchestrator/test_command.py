"""What the commands share: signals."""

from __future__ import annotations

import os
import signal
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
