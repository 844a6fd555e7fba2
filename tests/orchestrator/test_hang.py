"""Who stands still, and who is to blame: a pure function."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.hang import BEGIN_SECONDS, Heard, find_hang
from workers.train.pulse import COLLECTIVE, Moment, Phase

NOW, AFTER = 1000.0, 30.0


def rank(number: int, phase: Phase | None, still: float, silent: float = 1.0, detail: str = "") -> Heard:
    """A rank that did its last move `still` seconds ago, and beat `silent` seconds ago."""
    moment = None if phase is None else Moment(43, phase, detail, 7)
    return Heard(number, None if phase is None else "node", moment, NOW - silent, NOW - still)


@pytest.mark.parametrize(
    ("heard", "ranks", "words"),
    [
        ([rank(0, "data", 29), rank(1, "gather", 30)], None, ""),
        ([], None, ""),
        # Stopped, or its machine does not answer: the others wait for it.
        (
            [rank(0, "gather", 30), rank(1, "forward", 31, silent=31)],
            (1,),
            "rank 1 gave no sign of life for 31 s; its last was in forward of step 43; "
            "rank 0 waits in gather of step 43. ",
        ),
        # Its last beat may be from a moment at which it waited itself.
        ([rank(0, "data", 31), rank(1, "gather", 30, silent=30)], (1,), "rank 1 gave no sign of life for 30 s"),
        # A shard that is not read.
        (
            [rank(0, "data", 31, detail="lane 3, s3://b/00001.tar"), rank(1, "gather", 30)],
            (0,),
            "rank 0 stood still for 31 s in data of step 43 (lane 3, s3://b/00001.tar). ",
        ),
        # The one to blame need not be the first that is seen to stand still: beats come every few seconds.
        ([rank(0, "gather", 31), rank(1, "backward", 29)], (1,), "rank 1 stood still for 29 s in backward"),
        # Who waits for a rank that moves, waits for a slow one.
        ([rank(0, "gather", 31), rank(1, "data", 5)], None, ""),
        ([rank(0, "gather", 31), rank(1, "data", 5), rank(2, "data", 40, silent=40)], (2,), "rank 2 gave no sign"),
        # A save has an end of its own, however long the storage does not answer.
        ([rank(0, "save", 31), rank(1, "save", 35)], None, ""),
        ([rank(0, "save", 31), rank(1, "save", 35, silent=35)], (1,), "rank 1 gave no sign of life"),
        # What a rank leaves with is known when it has left; that too has an end.
        ([rank(0, "gather", 179), rank(1, "end", 175)], None, ""),
        (
            [rank(0, "gather", 179), rank(1, "end", 181, detail="its save")],
            (1,),
            "rank 1 stood still for 181 s in end of",
        ),
        # A collective that never ends: nobody knows whose fault it is.
        (
            [rank(n, "gather", 31 + n) for n in range(5)],
            (0, 1, 2, 3, 4),
            "rank 0 stood still for 31 s in gather of step 43; rank 1 stood still for 32 s in gather of step 43; "
            "rank 2 stood still for 33 s in gather of step 43; and 2 other ranks. ",
        ),
        # Ranks that have begun wait for one that has not: imports take their time.
        ([rank(0, "load", 479), rank(1, None, 479, silent=479)], None, ""),
        (
            [rank(0, "load", 470), rank(1, None, 481, silent=481)],
            (1,),
            "rank 1 has not begun after 481 s: its process did not come to the training loop. ",
        ),
    ],
)
def test_who_hangs(heard: list[Heard], ranks: tuple[int, ...] | None, words: str) -> None:
    hang = find_hang(heard, NOW, AFTER)
    assert (hang and hang.ranks) == ranks
    if hang is not None:
        assert hang.cause.startswith(words)
        assert "stacks/ of the run directory" in hang.cause
        assert re.search(r"raise retry\.hang_after_seconds \(it allowed (30|180|480)\)", hang.cause)
        assert hang.step == 43
        assert hang.rank == (ranks[0] if ranks and len(ranks) == 1 else None)
        assert [line.split()[:2] for line in hang.details.splitlines()] == [["rank", str(one.rank)] for one in heard]


def test_before_the_first_step_no_step_is_named() -> None:
    starting = replace(rank(0, "load", 31, detail="model"), moment=Moment(0, "load", "model", 2))
    hang = find_hang([starting], NOW, AFTER)
    assert hang is not None
    assert hang.cause.startswith("rank 0 stood still for 31 s in load (model). ")
    assert hang.step == 0


PHASES = st.sampled_from([None, "start", "load", "data", "forward", "gather", "backward", "update", "save"])


@st.composite
def groups(draw: st.DrawFn) -> list[Heard]:
    seconds = st.floats(0, 900)
    group = []
    for number in range(draw(st.integers(1, 6))):
        phase, silent = draw(PHASES), draw(seconds)
        still = silent if phase is None else max(silent, draw(seconds))
        group.append(rank(number, phase, still, silent))
    return group


@given(groups(), st.floats(5, 600))  # what a spec may say
def test_there_is_a_hang_exactly_when_one_is_silent_or_all_stand_still(heard: list[Heard], after: float) -> None:
    hang = find_hang(heard, NOW, after)
    allowed = max(after, BEGIN_SECONDS) if any(one.moment is None for one in heard) else after
    still = [one for one in heard if NOW - one.moved > allowed / 2]
    silent = any(NOW - one.beat > allowed / 2 for one in still)
    saving = any(one.moment and one.moment.phase == "save" for one in still)
    too_long = any(NOW - one.moved > allowed for one in heard)
    assert (hang is not None) == (too_long and (silent or (len(still) == len(heard) and not saving)))
    if hang is None:
        return
    blamed = [heard[number] for number in hang.ranks]
    assert blamed
    assert all(NOW - one.moved > allowed / 2 for one in blamed), "none that moves is blamed"
    if any(one.moment and one.moment.phase in COLLECTIVE and NOW - one.beat < 1 for one in blamed):
        assert blamed == still, "one that may be waiting is blamed only with all others"
