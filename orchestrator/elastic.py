"""On how many workers an attempt runs. Pure arithmetic on lanes, nodes and the spec's range.

Ranks share the lanes out, and each step takes as long as the rank with most of them needs: of 16 lanes, 6 ranks are as
fast as 7, since some rank has 3 of them either way. So a size is useful where one rank less would make some rank take
more lanes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobspecs.cluster import Cluster


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    id: str
    """In hex."""
    cpus: float
    """In all, used or not; or, where room is sought beside what runs, those that nobody has reserved."""
    gpus: float
    draining: bool = False
    """Whether it is about to be taken away."""


def useful_sizes(lanes: int) -> tuple[int, ...]:
    """The smallest number of ranks for each largest number of lanes on a rank, ascending: of 16 lanes 1, 2, 3, 4, 6,
    8 and 16."""
    return tuple(sorted({-(-lanes // most) for most in range(1, lanes + 1)}))


def sizes(lanes: int, cluster: Cluster) -> tuple[int, ...]:
    """The numbers of workers that the job may run on, ascending: the useful ones, and the least that the spec allows.
    A plain number in the spec is the only one."""
    useful = (size for size in useful_sizes(lanes) if size <= cluster.max_workers)
    return tuple(sorted({max(size, cluster.min_workers) for size in useful}))


def room(nodes: Iterable[Node], cluster: Cluster) -> int:
    """How many workers the nodes hold that are not draining. A worker does not spread over nodes."""
    return sum(_workers_on(node, cluster) for node in nodes if not node.draining)


def _workers_on(node: Node, cluster: Cluster) -> int:
    workers = int(node.cpus // cluster.cpus_per_worker)
    return min(workers, int(node.gpus // cluster.gpus_per_worker)) if cluster.gpus_per_worker else workers


def start_size(sizes: tuple[int, ...], room: int) -> int | None:
    """The largest of `sizes` that there is room for; None where there is too little for any."""
    return max((size for size in sizes if size <= room), default=None)


def smaller_size(sizes: Sequence[int], size: int) -> int:
    """The size to try after a worker group of `size` did not come up; the smallest is tried again."""
    return max((each for each in sizes if each < size), default=size)


def grown_size(sizes: tuple[int, ...], room: int, now: int, *, ran_seconds: float, cluster: Cluster) -> int | None:
    """The size to grow to after a commit, or None.

    now: workers of the attempt that runs, which is `ran_seconds` old.
    """
    if ran_seconds < cluster.grow_every_seconds:
        return None
    size = start_size(sizes, room)
    return size if size is not None and size > now else None
