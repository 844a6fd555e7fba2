"""When ranks stand still, and which of them is to blame. Pure: beats in, a verdict out; `beats.py` collects them.

Ranks work in step: when one stands still, the others soon wait for it in a collective. So all stand still, and what
tells them apart is whether they beat at all, and in which phase they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.train.pulse import COLLECTIVE, Moment

BEGIN_SECONDS = 480.0
"""Time until all ranks beat, at least: Ray looks for room for them (and says so itself if it finds none in 300 s:
`ray_cluster.py`), processes start, each imports torch."""
END_SECONDS = 180.0
"""Time that a rank may take to leave, at least: its save in flight, its last metrics, its loaders. What it leaves with,
an exception perhaps, is known only then."""
_NAMED = 3
"""Ranks that a message tells of one by one."""


@dataclass(frozen=True)
class Heard:
    """What is known of a rank. Times are those of whoever listens: the nodes' clocks differ."""

    rank: int
    node: str | None
    """Ray's id of its node; None as long as it has not beaten."""
    moment: Moment | None
    """What it did at its last beat."""
    beat: float
    """When that came; before the first, when the attempt began."""
    moved: float
    """When the first beat came that showed its last sign of progress."""


@dataclass(frozen=True)
class Hang:
    """Ranks that stand still."""

    ranks: tuple[int, ...]
    """Those to blame: of the others it is known why they wait."""
    step: int
    """The step that all are at, from 1; 0 before the first."""
    cause: str
    """A line for people: rank, phase, step, shard."""
    details: str
    """A line for each rank."""

    @property
    def rank(self) -> int | None:
        """The one to blame, where it is one."""
        return self.ranks[0] if len(self.ranks) == 1 else None


def find_hang(heard: Sequence[Heard], now: float, hang_after_seconds: float) -> Hang | None:
    """The hang of an attempt of whose ranks, all of them, so much is known at `now`."""
    if any(one.moment is None for one in heard):
        # The others may be waiting for those that begin.
        hang_after_seconds = max(hang_after_seconds, BEGIN_SECONDS)
    if any(one.moment is not None and one.moment.phase == "end" for one in heard):
        hang_after_seconds = max(hang_after_seconds, END_SECONDS)
    if not heard or max(now - one.moved for one in heard) <= hang_after_seconds:
        return None
    # The others stopped a little later: each when it came to need the one that had.
    still = [one for one in heard if now - one.moved > hang_after_seconds / 2]
    silent = [one for one in still if now - one.beat > hang_after_seconds / 2]
    # Waiting for a rank that makes headway, however slowly, is no hang; and a save ends by itself: see the saver.
    saving = any(one.moment is not None and one.moment.phase == "save" for one in still)
    if not silent and (saving or len(still) < len(heard)):
        return None
    alone = [one for one in still if one.moment is not None and one.moment.phase not in COLLECTIVE]
    guilty = silent or alone or still
    named = "; ".join(_line(one, now, silent=bool(silent)) for one in guilty[:_NAMED])
    if len(guilty) > _NAMED:
        named += f"; and {len(guilty) - _NAMED} other ranks"
    if silent and (waiting := [one for one in still if one not in silent + alone]):
        # The last beat of one that was stopped is some seconds and steps old.
        named += f"; rank {waiting[0].rank} waits in {_place(waiting[0].moment)}"
    return Hang(
        ranks=tuple(one.rank for one in guilty),
        step=max(one.moment.step if one.moment else 0 for one in still),
        cause=f"{named}. The Python stacks of the ranks that answered are in stacks/ of the run directory. If it "
        f"may take so long, raise retry.hang_after_seconds (it allowed {hang_after_seconds:g}).",
        details="\n".join(_line(one, now, silent=one in silent) for one in heard),
    )


def _line(one: Heard, now: float, *, silent: bool) -> str:
    if one.moment is None:
        return (
            f"rank {one.rank} has not begun after {now - one.beat:.0f} s: its process did not come to the training loop"
        )
    if silent:
        return f"rank {one.rank} gave no sign of life for {now - one.beat:.0f} s; its last was in {_place(one.moment)}"
    return f"rank {one.rank} stood still for {now - one.moved:.0f} s in {_place(one.moment)}"


def _place(moment: Moment | None) -> str:
    assert moment is not None
    place = f"{moment.phase} of step {moment.step}" if moment.step else moment.phase
    return f"{place} ({moment.detail})" if moment.detail else place
