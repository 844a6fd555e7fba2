"""On how many workers the next attempt starts: waits for the fewest that the job needs, and says so."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobspecs.cluster import Cluster
from jobspecs.errors import JobFailedError
from orchestrator import ray_cluster
from orchestrator.crew import Crew
from orchestrator.elastic import room, start_size
from orchestrator.evaluations import Evaluations
from orchestrator.holders import holders
from orchestrator.journal import Journal
from orchestrator.within import within

POLL_SECONDS = 1.0
YIELD_SECONDS = 2.0
"""What the attempt before had reserved is mostly free within so long; for what is missing then, evaluations go."""
SETTLE_SECONDS = 5.0
"""What the attempt before had reserved is free within so long; what isn't then belongs to others."""


class Workforce:
    """What the cluster has for the job, and what an autoscaler is asked for. With several sizes the request for the
    largest stands from the first attempt on, as nodes that nobody asks for go before the job may grow onto them: who
    runs the attempts takes it back at their end (`withdraw`). With one size it stands while there is too little."""

    def __init__(
        self, sizes: tuple[int, ...], cluster: Cluster, journal: Journal, crew: Crew, evaluations: Evaluations
    ) -> None:
        """sizes: numbers of workers that the job may run on, ascending. crew: of the attempt before. evaluations: they
        make room for workers."""
        self.sizes = sizes
        self.cluster = cluster
        self._journal = journal
        self._crew = crew
        self._evaluations = evaluations

    def room(self, held: int = 0) -> int:
        """How many workers there is room for. held: workers that the job has reserved already."""
        nodes = room(ray_cluster.nodes(), self.cluster)
        return min(nodes, held + ray_cluster.free_workers(self.cluster))

    def room_to_grow(self, held: int) -> int:
        """How many workers there will be room for when evaluations have made theirs. Beside other jobs it is what is
        free now: of what is taken, nobody knows how much is the evaluations'. held: as for `room`."""
        free, there = self.room(held), room(ray_cluster.nodes(), self.cluster)
        if there > free and self._evaluations.are_running() and not holders():
            return there
        return free

    def wait(self, stopped: Callable[[], bool], most: int | None = None) -> int | None:
        """The number of workers to start on, at most `most`, as soon as there is room for the fewest; None when it was
        `stopped` before. Raises JobFailedError after `cluster.wait_seconds`."""
        sizes = tuple(size for size in self.sizes if most is None or size <= most)
        told: int | None = None
        self._evaluations.hold()
        if len(self.sizes) > 1:
            ray_cluster.ask_for(self.cluster, self.sizes[-1])
        standing = self._crew.standing()
        if standing is not None and standing == self._best(sizes, standing) and not stopped():
            return standing
        self._crew.dismiss()
        began = time.monotonic()
        try:
            while not stopped():
                waited = time.monotonic() - began
                there = self.room()
                size = start_size(sizes, there)
                best = start_size(sizes, room(ray_cluster.nodes(), self.cluster))
                if size is not None and (size == best or waited >= SETTLE_SECONDS):
                    return size
                if waited >= YIELD_SECONDS:
                    self._evaluations.make_room()
                if size is None and waited >= SETTLE_SECONDS and told != there:
                    told = there
                    self._tell(there)
                if size is None and waited >= max(self.cluster.wait_seconds, SETTLE_SECONDS):
                    raise JobFailedError(
                        f"waited {waited:.0f} s for {self._wanted()} (cluster.wait_seconds), and there is room for "
                        f"{there}. Add nodes, or lower cluster.workers; the same command goes on from the last commit."
                    )
                time.sleep(POLL_SECONDS)
            return None
        finally:
            if told is not None and len(self.sizes) == 1:
                ray_cluster.ask_for(self.cluster, 0)

    def _best(self, sizes: tuple[int, ...], standing: int) -> int | None:
        """The number of workers that could start instead of those that stand, evaluations out of their way."""
        if self._evaluations.are_running():
            return start_size(sizes, room(ray_cluster.nodes(), self.cluster))
        return start_size(sizes, self.room(held=standing))

    def _tell(self, there: int) -> None:
        ray_cluster.ask_for(self.cluster, self.sizes[-1])
        before = [str(holder) for holder in holders()]
        behind = f", behind {', '.join(before)}" if before else ""
        self._journal.event(
            "waiting_for_workers",
            f"waiting up to {self.cluster.wait_seconds:.0f} s for {self._wanted()}: there is room for {there}{behind}",
            wanted=self.sizes[0],
            room=there,
            behind=before,
        )

    def _wanted(self) -> str:
        each = ", ".join(f"{count:g} {kind}" for kind, count in ray_cluster.resources(self.cluster).items())
        return f"{self.sizes[0]} worker{'s' if self.sizes[0] > 1 else ''} of {each}"


def withdraw(cluster: Cluster) -> None:
    """Takes back what a `Workforce` has asked an autoscaler for, if it stands: training has come to its end. A Ray that
    does not answer changes nothing of how."""
    if cluster.min_workers < cluster.max_workers:
        within(ray_cluster.ANSWER_SECONDS, lambda: ray_cluster.ask_for(cluster, 0))
