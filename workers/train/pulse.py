"""What this process does just now: step and phase. The loop says it, a thread that beats reads it.

    pulse.phase("data", loader.reading, step=7)     the loop, some ten times a step: it waits for the batch of step 7
    pulse.read()                                    any thread, now and then -> Moment(7, "data", "lane 3, s3://…", 41)

    pulse.take_seconds()                            the loop, once a step -> {"data": 0.01, "forward": 0.08, …}

Nobody need read it: under torchrun nobody does. A call costs less than a microsecond, its look at the clock included;
words are made of what is read, not of what is said.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Literal, NamedTuple, get_args

Phase = Literal["start", "load", "data", "forward", "gather", "backward", "update", "save", "end"]
PHASES: frozenset[Phase] = frozenset(get_args(Phase))
COLLECTIVE: frozenset[Phase] = frozenset({"gather", "update"})
"""Phases in which a rank may wait for the others, and so stand still for no fault of its own."""


class Moment(NamedTuple):
    """What a process does."""

    step: int
    """The optimizer step that it is at, from 1; 0 before the first."""
    phase: Phase
    detail: str
    """What of the phase, such as the shard."""
    moves: int
    """Signs of progress so far: as long as it stays the same, the process stands still."""


class Pulse:
    """Step and phase of one process, told by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._now: tuple[int, Phase, str | Callable[[], str]] = (0, "start", "")
        self._moves = 0
        self._clock = clock
        self._since = clock()
        self._seconds: defaultdict[Phase, float] = defaultdict(float)

    def phase(self, phase: Phase, detail: str | Callable[[], str] = "", *, step: int | None = None) -> None:
        """A phase begins, or goes on with another part; `step` where it is another one. A `detail` that can be called
        is called by who reads it, in another thread."""
        self._count()
        self._now = (self._now[0] if step is None else step, phase, detail)
        self._moves += 1

    def take_seconds(self) -> dict[Phase, float]:
        """Seconds of each phase since the last call, up to now; for the thread that tells the phases.

        They are the host's. A GPU works behind it: what it is busy with is waited for, and counted, where the host next
        asks for a result: in a gather, and at the end of the update, which reads the loss.
        """
        self._count()
        taken, self._seconds = self._seconds, defaultdict(float)
        return dict(taken)

    def _count(self) -> None:
        now = self._clock()
        self._seconds[self._now[1]] += now - self._since
        self._since = now

    def moved(self, of: Collection[Phase] = PHASES) -> None:
        """The phase goes on, and is not stuck. Any thread may say so. of: the phases that wait for what has moved; in
        any other it is no progress."""
        if self._now[1] not in of:
            return
        # Two threads at once may count one for two: it has changed all the same.
        self._moves += 1

    def read(self) -> Moment:
        """What the process does now."""
        moves = self._moves
        step, phase, detail = self._now
        return Moment(step, phase, detail if isinstance(detail, str) else detail(), moves)


pulse = Pulse()
"""Of this process."""
