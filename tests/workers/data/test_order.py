"""The canonical order against one that enumerates every sample in plain lists."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.keyed import permutation, raw
from workers.data.order import (
    Layout,
    SourceOrder,
    auto_lanes,
    lanes_of_rank,
    rows_per_rank,
)

Place = tuple[int, int]
"""(shard, number of the sample in it)."""

CASES = settings(deadline=None, max_examples=150)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], Layout]:
    """Sample counts of shards (some empty) for one global batch at least, and a layout."""
    lanes, lane_batch = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=9))
    counts[draw(st.integers(0, len(counts) - 1))] += max(0, lanes * lane_batch - sum(counts))
    layout = Layout(draw(st.integers(0, 2**32)), lanes * lane_batch, lanes, draw(st.integers(1, 60)))
    return counts, layout


def order_of(counts: list[int], layout: Layout, source: str = "web") -> SourceOrder:
    return SourceOrder(source, np.asarray(counts, np.int64), layout)


def lane_batch(order: SourceOrder, step: int, lane: int) -> list[Place]:
    """The samples of a lane in a step, read as the loader reads them."""
    pass_ = order.pass_of(step)
    batch = []
    for number, start, stop in order.windows_of_step(step, lane):
        window = order.window(pass_, lane, number)
        read = [(s.shard, place) for s in window.segments for place in range(s.start, s.stop)]
        batch += [read[i] for i in window.order][start:stop]
    return batch


def global_batch(order: SourceOrder, step: int) -> list[Place]:
    return [sample for lane in range(order.layout.lanes) for sample in lane_batch(order, step, lane)]


def enumerated_pass(counts: list[int], layout: Layout, pass_: int, source: str = "web") -> list[list[Place]]:
    """Every global batch of a pass, by the definition in the docstring of workers/data/order.py."""
    shards = permutation(len(counts), layout.seed, "shards", source, pass_)
    ring = [(int(shard), place) for shard in shards for place in range(counts[shard])]
    entry = int(raw(1, layout.seed, "entry", source, pass_)[0]) % len(ring)
    ring = ring[entry:] + ring[:entry]
    steps = len(ring) // layout.global_batch
    length = steps * layout.global_batch // layout.lanes
    batches: list[list[Place]] = [[] for _ in range(steps)]
    for lane in range(layout.lanes):
        stretch = ring[lane * length : (lane + 1) * length]
        shuffled: list[Place] = []
        for number, start in enumerate(range(0, length, layout.window)):
            window = stretch[start : start + layout.window]
            key = (layout.seed, "window", source, pass_, lane, number)
            shuffled += [window[i] for i in permutation(len(window), *key)]
        for step, batch in enumerate(batches):
            batch += shuffled[step * len(shuffled) // steps : (step + 1) * len(shuffled) // steps]
    return batches


@given(cases(), st.integers(0, 3))
@CASES
def test_a_pass_is_the_enumerated_one(case: tuple[list[int], Layout], pass_: int) -> None:
    counts, layout = case
    order = order_of(counts, layout)
    first = pass_ * order.steps_per_pass
    batches = [global_batch(order, first + step) for step in range(order.steps_per_pass)]
    assert batches == enumerated_pass(counts, layout, pass_)


@given(cases(), st.integers(0, 3))
@CASES
def test_a_pass_holds_whole_batches_and_no_sample_twice(case: tuple[list[int], Layout], pass_: int) -> None:
    counts, layout = case
    order = order_of(counts, layout)
    assert order.steps_per_pass == sum(counts) // layout.global_batch
    steps = range(pass_ * order.steps_per_pass, (pass_ + 1) * order.steps_per_pass)
    assert {order.pass_of(step) for step in steps} == {pass_}
    batches = [global_batch(order, step) for step in steps]
    assert all(len(batch) == layout.global_batch for batch in batches)
    seen = Counter(sample for batch in batches for sample in batch)
    assert seen.total() == len(seen) == order.steps_per_pass * layout.global_batch
    assert all(place in range(counts[shard]) for shard, place in seen)


@given(cases())
@CASES
def test_windows_partition_each_lane(case: tuple[list[int], Layout]) -> None:
    counts, layout = case
    order = order_of(counts, layout)
    M, length = layout.window, order.steps_per_pass * layout.lane_batch
    for lane in range(layout.lanes):
        touched = [
            (window, place)
            for step in range(order.steps_per_pass)
            for window, start, stop in order.windows_of_step(step, lane)
            for place in range(start, stop)
        ]
        assert touched == [(i // M, i % M) for i in range(length)]
        for number in range(-(-length // M)):
            window = order.window(0, lane, number)
            size = min(M, length - number * M)
            assert sum(segment.stop - segment.start for segment in window.segments) == size
            assert sorted(window.order.tolist()) == list(range(size))
            assert all(segment.start < segment.stop for segment in window.segments)


@given(cases(), st.data())
@CASES
def test_starting_at_a_step_equals_going_on(case: tuple[list[int], Layout], data: st.DataObject) -> None:
    counts, layout = case
    going_on = order_of(counts, layout)
    steps = 3 * going_on.steps_per_pass
    batches = [global_batch(going_on, step) for step in range(steps)]
    step = data.draw(st.integers(0, steps - 1))
    assert global_batch(order_of(counts, layout), step) == batches[step]
    assert global_batch(going_on, step) == batches[step]  # going back does not matter either


@given(cases(), st.integers(1, 12), st.integers(1, 4), st.integers(0, 5))
@CASES
def test_every_split_assembles_the_same_batch(
    case: tuple[list[int], Layout], world_size: int, processes: int, step: int
) -> None:
    counts, layout = case
    order = order_of(counts, layout)
    assembled: list[Place] = []
    for rank in range(world_size):
        lanes = lanes_of_rank(rank, world_size, layout.lanes)
        # Each loader process has an order of its own.
        shares = [(lanes[w::processes], order_of(counts, layout)) for w in range(processes)]
        of_lane = {lane: lane_batch(own, step, lane) for share, own in shares for lane in share}
        rows = [sample for lane in lanes for sample in of_lane[lane]]
        assert len(rows) <= rows_per_rank(world_size, layout)
        assembled += rows
    assert assembled == global_batch(order, step)


@given(st.integers(1, 200), st.integers(1, 300))
@CASES
def test_ranks_share_the_lanes_out(world_size: int, lanes: int) -> None:
    shares = [lanes_of_rank(rank, world_size, lanes) for rank in range(world_size)]
    assert [lane for share in shares for lane in share] == list(range(lanes))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    layout = Layout(seed=0, global_batch=lanes * 3, lanes=lanes, window=8)
    assert rows_per_rank(world_size, layout) == max(sizes) * 3


@pytest.mark.parametrize(
    ("batch", "lanes"),
    [
        (1, 1),
        (7, 1),
        (16, 2),
        (64, 8),
        (100, 10),
        (128, 16),
        (1000, 25),
        (1024, 32),
        (1536, 48),
        (32768, 1024),
    ],
)
def test_auto_lanes(batch: int, lanes: int) -> None:
    assert auto_lanes(batch) == lanes


@given(st.integers(1, 100_000))
@CASES
def test_auto_lanes_divide_the_batch(batch: int) -> None:
    lanes = auto_lanes(batch)
    assert batch % lanes == 0
    assert 1 <= lanes <= max(1, batch // 8)


def test_a_batch_that_lanes_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="global batch 10 is not a multiple of 4 lanes"):
        Layout(seed=0, global_batch=10, lanes=4, window=8)


LARGE = [30, 20, 25, 5, 40, 35, 45]
LAYOUT = Layout(seed=3, global_batch=16, lanes=4, window=10)


def batches_of(layout: Layout, pass_: int, source: str = "web") -> list[list[Place]]:
    order = order_of(LARGE, layout, source)
    first = pass_ * order.steps_per_pass
    return [global_batch(order, first + step) for step in range(order.steps_per_pass)]


def test_passes_seeds_and_sources_differ() -> None:
    other_seed = Layout(seed=4, global_batch=16, lanes=4, window=10)
    variants = [batches_of(LAYOUT, 0), batches_of(LAYOUT, 1), batches_of(other_seed, 0)]
    variants.append(batches_of(LAYOUT, 0, source="other"))
    for i, one in enumerate(variants):
        for other in variants[:i]:
            # Not merely turned: hardly any slot holds the same sample.
            same = sum(a == b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
            assert same < 0.1 * 16 * len(one)


def test_a_batch_mixes_shards() -> None:
    assert all(len({shard for shard, _ in batch}) >= 3 for batch in batches_of(LAYOUT, 0))


def test_no_sample_is_left_out_for_good() -> None:
    order = order_of([4, 3, 4], Layout(seed=0, global_batch=8, lanes=2, window=3))  # 3 of 11 wait each pass
    seen = {sample for step in range(40) for sample in global_batch(order, step)}
    assert len(seen) == 11


def test_the_order_stays_as_it_is() -> None:
    order = order_of([5, 0, 7, 3], Layout(seed=1, global_batch=4, lanes=2, window=3))
    assert global_batch(order, 0) == [(2, 5), (2, 3), (0, 2), (0, 3)]
    assert global_batch(order, 5) == [(0, 4), (0, 3), (2, 0), (2, 1)]


def test_what_keys_are_made_of_is_plain() -> None:
    # repr(np.int64(1)) is not '1': a NumPy integer in a key would be another key.
    segments = order_of(LARGE, LAYOUT).window(1, 2, 0).segments
    assert {type(n) for s in segments for n in (s.shard, s.start, s.stop)} == {int}
