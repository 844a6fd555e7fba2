"""What a process says of what it does."""

from __future__ import annotations

from workers.train.pulse import Moment, Pulse


def test_a_step_its_phases_and_their_details() -> None:
    pulse = Pulse()
    assert pulse.read() == Moment(0, "start", "", 0)
    pulse.phase("load", "model")
    assert pulse.read() == Moment(0, "load", "model", 1)
    shards = ["first.tar"]
    pulse.phase("data", lambda: shards[0], step=4)
    shards[0] = "second.tar"
    assert pulse.read() == Moment(4, "data", "second.tar", 2), "words are made when they are read"
    pulse.phase("forward")
    assert pulse.read() == Moment(4, "forward", "", 3)
    pulse.phase("forward")
    pulse.moved()
    assert pulse.read() == Moment(4, "forward", "", 5), "another micro-batch is progress"
