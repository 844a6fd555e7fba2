"""What the driver learns of beats."""

from __future__ import annotations

from orchestrator.beats import Beat, Beats
from workers.train.pulse import Moment, Phase


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def beat(rank: int, moves: int, phase: Phase = "forward") -> Beat:
    return Beat(1, rank, f"node-{rank}", Moment(5, phase, "", moves))


def listening(world_size: int, clock: Clock) -> Beats:
    """To attempt 1."""
    beats = Beats(10, clock)
    beats.begin(1, world_size)
    return beats


def test_a_rank_that_beats_and_does_not_move_hangs() -> None:
    clock = Clock()
    beats = listening(2, clock)
    assert beats.look(1) == (None, set())
    for clock.now in range(0, 20, 2):
        beats.beat(beat(0, moves=min(clock.now, 8), phase="gather"))
        beats.beat(beat(1, moves=min(clock.now, 6)))
        hang, nodes = beats.look(1)
        assert nodes == {"node-0", "node-1"}
        assert (hang is not None) == (clock.now - 6 > 10)
    assert hang is not None
    assert hang.cause.startswith("rank 1 stood still for 12 s in forward of step 5. ")


def test_another_shard_is_headway() -> None:
    clock = Clock()
    beats = listening(1, clock)
    for clock.now in range(0, 40, 5):
        beats.beat(Beat(1, 0, "node", Moment(5, "data", f"lane 3, s3://b/{min(clock.now, 20)}.tar", 7)))
        assert (beats.look(1)[0] is not None) == (clock.now > 30)


def test_a_rank_that_left_is_not_missed_and_not_heard_again() -> None:
    clock = Clock()
    beats = listening(2, clock)
    beats.beat(beat(0, 1))
    beats.beat(beat(1, 1))
    beats.leave(1, 1)
    beats.beat(beat(1, 1))
    clock.now = 20
    beats.beat(beat(0, 2))
    assert beats.look(1) == (None, {"node-0"})


def test_stacks_are_asked_of_those_that_beat_once_they_are_wanted() -> None:
    clock = Clock()
    beats = listening(2, clock)
    assert not beats.beat(beat(0, 1))
    assert not beats.beat(beat(1, 1))
    clock.now = 60
    assert not beats.beat(beat(0, 1))
    assert beats.ask_for_stacks() == {0}
    assert beats.beat(beat(0, 1))
    beats.take_stacks(1, 0, "here")
    assert not beats.beat(beat(0, 1))
    assert beats.stacks() == {0: "here"}


def test_ranks_of_the_attempt_before_are_not_heard() -> None:
    clock = Clock()
    beats = listening(2, clock)
    beats.ask_for_stacks()
    beats.take_stacks(1, 1, "there")
    beats.begin(2, 1)
    assert not beats.beat(beat(0, 1))  # of attempt 1
    beats.take_stacks(1, 0, "there")
    assert (beats.look(2), beats.stacks()) == ((None, set()), {})
    beats.leave(1, 0)
    for clock.now in range(0, 16, 5):
        assert not beats.beat(Beat(2, 0, "node-0", Moment(5, "data", "", 1)))
        beats.beat(beat(0, clock.now))
    assert beats.look(1) == (None, set())
    hang, _ = beats.look(2)
    assert hang is not None
    assert hang.ranks == (0,)
