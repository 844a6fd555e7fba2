"""On how many workers an attempt runs: pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspecs.cluster import Cluster, WorkerRange
from orchestrator.elastic import Node, grown_size, room, sizes, smaller_size, start_size, useful_sizes
from workers.data.order import lanes_of_rank


def between(least: int, most: int, **fields: float) -> Cluster:
    return Cluster(workers=WorkerRange(min=least, max=most), **fields)


def most_lanes(size: int, lanes: int) -> int:
    return max(len(lanes_of_rank(rank, size, lanes)) for rank in range(size))


def test_useful_sizes_of_16_lanes() -> None:
    assert useful_sizes(16) == (1, 2, 3, 4, 6, 8, 16)
    assert useful_sizes(1) == (1,)


@given(st.integers(1, 96))
def test_a_size_is_useful_where_one_rank_less_has_more_to_do(lanes: int) -> None:
    """By the order's own way to share lanes out."""
    for size in range(1, lanes + 1):
        better = size == 1 or most_lanes(size, lanes) < most_lanes(size - 1, lanes)
        assert (size in useful_sizes(lanes)) == better


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (Cluster(workers=5), (5,)),
        (between(2, 8), (2, 3, 4, 6, 8)),
        (between(5, 100), (5, 6, 8, 16)),
        (between(7, 7), (7,)),  # 6 would be as fast, and is fewer than was asked for
    ],
)
def test_sizes_that_the_spec_allows(cluster: Cluster, expected: tuple[int, ...]) -> None:
    assert sizes(16, cluster) == expected


def test_room_is_counted_by_node() -> None:
    """3 cores a worker: two nodes of 4 hold one each, not two; a node that drains holds none."""
    nodes = [Node("a", 4, 0), Node("b", 4, 2), Node("c", 9, 1), Node("d", 90, 8, draining=True)]
    assert room(nodes, Cluster(cpus_per_worker=3)) == 1 + 1 + 3
    assert room(nodes, Cluster(cpus_per_worker=2, gpus_per_worker=1)) == 0 + 2 + 1


@pytest.mark.parametrize(("held", "expected"), [(0, None), (1, None), (2, 2), (5, 4), (7, 6), (50, 8)])
def test_an_attempt_starts_on_the_largest_size_that_there_is_room_for(held: int, expected: int | None) -> None:
    assert start_size(sizes(16, between(2, 8)), held) == expected


@pytest.mark.parametrize(("size", "expected"), [(8, 6), (6, 4), (5, 4), (3, 2), (2, 2)])
def test_a_group_that_did_not_come_up_is_followed_by_a_smaller_one(size: int, expected: int) -> None:
    assert smaller_size(sizes(16, between(2, 8)), size) == expected


@pytest.mark.parametrize(
    ("held", "now", "ran_seconds", "expected"),
    [
        (8, 4, 700, 8),
        (8, 4, 500, None),  # grew, or started, a moment ago
        (5, 4, 700, None),  # a fifth worker has no use
        (4, 4, 700, None),
        (2, 4, 700, None),
        (0, 2, 700, None),
    ],
)
def test_a_job_grows_to_useful_sizes_and_not_too_often(
    held: int, now: int, ran_seconds: float, expected: int | None
) -> None:
    cluster = between(2, 8, grow_every_seconds=600.0)
    assert grown_size(sizes(16, cluster), held, now, ran_seconds=ran_seconds, cluster=cluster) == expected
