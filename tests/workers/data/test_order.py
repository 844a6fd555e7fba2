"""The canonical order against one that enumerates every sample in plain lists.

The order's side is assembled as a cluster does it: each loader process of each rank has orders of its own,
reads the windows of its lanes, and the ranks' rows stand one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workers.data.order
from workers.data.keyed import permutation, raw
from workers.data.order import Layout, SourceOrder, lanes_of_rank, rows_per_rank

Sample = tuple[str, int, int]
"""Source, shard, number of the sample in it."""

CASES = settings(deadline=None, max_examples=100)


@dataclass(frozen=True)
class Job:
    """Samples of each shard of each source, and the layout."""

    counts: tuple[tuple[int, ...], ...]
    layout: Layout

    @property
    def names(self) -> list[str]:
        return [f"source-{number}" for number in range(len(self.counts))]

    def orders(self) -> list[SourceOrder]:
        """New ones, as each process makes them."""
        named = zip(self.names, self.counts, strict=True)
        return [
            SourceOrder(name, np.array(counts, np.int64), self.layout, number)
            for number, (name, counts) in enumerate(named)
        ]


@st.composite
def jobs(draw: st.DrawFn, lanes: st.SearchStrategy[int] = st.integers(1, 8)) -> Job:  # noqa: B008
    """One to three sources, each with a slot or more and samples for one batch or more; some shards are empty."""
    lanes_, lane_batch = draw(lanes), draw(st.integers(1, 6))
    batch = lanes_ * lane_batch
    cuts = draw(st.sets(st.integers(1, batch - 1), max_size=2)) if batch > 1 else set[int]()
    slots = [stop - start for start, stop in pairwise([0, *sorted(cuts), batch])]
    counts = []
    for share in slots:
        shards = draw(st.lists(st.integers(0, 40), min_size=1, max_size=9))
        shards[draw(st.integers(0, len(shards) - 1))] += max(0, share - sum(shards))
        counts.append(tuple(shards))
    layout = Layout(draw(st.integers(0, 2**32)), batch, lanes_, draw(st.integers(1, 60)), tuple(slots))
    return Job(tuple(counts), layout)


STEPS = st.integers(0, 120)


# --- as a cluster assembles it ---


def lane_rows(orders: list[SourceOrder], step: int, lane: int) -> list[Sample]:
    """The rows of a lane in a step, read as the loader reads them."""
    rows = []
    for order in orders:
        pass_ = order.pass_of(step)
        for number, start, stop in order.windows_of_step(step, lane):
            window = order.window(pass_, lane, number)
            read = [(order.name, s.shard, place) for s in window.segments for place in range(s.start, s.stop)]
            rows += [read[i] for i in window.order][start:stop]
    return rows


def global_batch(job: Job, step: int, orders: list[SourceOrder] | None = None) -> list[Sample]:
    """By one process."""
    orders = orders or job.orders()
    return [sample for lane in range(job.layout.lanes) for sample in lane_rows(orders, step, lane)]


def attempt(job: Job, steps: range, world_size: int, processes: int) -> list[list[Sample]]:
    """The global batches of `steps`, by so many ranks with so many loader processes each."""
    batches: list[list[Sample]] = [[] for _ in steps]
    for rank in range(world_size):
        lanes = lanes_of_rank(rank, world_size, job.layout.lanes)
        of_process = [(lanes[w::processes], job.orders()) for w in range(processes)]
        for batch, step in zip(batches, steps, strict=True):
            of_lane = {lane: lane_rows(orders, step, lane) for share, orders in of_process for lane in share}
            rows = [sample for lane in lanes for sample in of_lane[lane]]
            assert len(rows) <= rows_per_rank(world_size, job.layout)
            batch += rows
    return batches


# --- as the docstring of workers/data/order.py defines it ---


def enumerated_pass(job: Job, source: int, pass_: int) -> list[list[Sample]]:
    """What a source has in each batch of a pass of its own, slot after slot."""
    name, counts, layout, slots = job.names[source], job.counts[source], job.layout, job.layout.slots[source]
    shards = permutation(len(counts), layout.seed, "shards", name, pass_)
    ring = [(name, int(shard), place) for shard in shards for place in range(counts[shard])]
    entry = int(raw(1, layout.seed, "entry", name, pass_)[0]) % len(ring)
    ring = ring[entry:] + ring[:entry]
    steps = len(ring) // slots
    b = layout.global_batch // layout.lanes
    line = [number for number, share in enumerate(layout.slots) for _ in range(share)]
    batches: list[list[Sample]] = [[] for _ in range(steps)]
    for lane in range(layout.lanes):
        share = line[lane * b : (lane + 1) * b].count(source)
        stream, ring = ring[: steps * share], ring[steps * share :]
        length = max(1, layout.window * share // b)
        shuffled: list[Sample] = []
        for number, start in enumerate(range(0, len(stream), length)):
            window = stream[start : start + length]
            key = (layout.seed, "window", name, pass_, lane, number)
            shuffled += [window[i] for i in permutation(len(window), *key)]
        for step, batch in enumerate(batches):
            batch += shuffled[step * share : (step + 1) * share]
    assert len(ring) < slots
    return batches


def enumerated_batch(job: Job, step: int) -> list[Sample]:
    batch = []
    for source, (counts, slots) in enumerate(zip(job.counts, job.layout.slots, strict=True)):
        pass_, step_of_pass = divmod(step, sum(counts) // slots)
        batch += enumerated_pass(job, source, pass_)[step_of_pass]
    return batch


# --- properties ---


@given(jobs(), STEPS)
@CASES
def test_a_batch_is_the_enumerated_one(job: Job, step: int) -> None:
    assert global_batch(job, step) == enumerated_batch(job, step)


@given(jobs(), STEPS)
@CASES
def test_a_batch_has_the_exact_shares_and_no_sample_twice(job: Job, step: int) -> None:
    batch = global_batch(job, step)
    line = [name for name, slots in zip(job.names, job.layout.slots, strict=True) for _ in range(slots)]
    assert [name for name, _, _ in batch] == line
    assert len(set(batch)) == len(batch) == job.layout.global_batch
    assert all(place in range(job.counts[job.names.index(name)][shard]) for name, shard, place in batch)


@given(jobs(), st.integers(0, 3), st.data())
@CASES
def test_a_pass_holds_each_sample_once(job: Job, pass_: int, data: st.DataObject) -> None:
    orders = job.orders()
    source = data.draw(st.integers(0, len(orders) - 1))
    order, slots, counts = orders[source], job.layout.slots[source], job.counts[source]
    assert order.steps_per_pass == sum(counts) // slots
    steps = range(pass_ * order.steps_per_pass, (pass_ + 1) * order.steps_per_pass)
    assert {order.pass_of(step) for step in steps} == {pass_}
    batches = [[s for s in global_batch(job, step, orders) if s[0] == order.name] for step in steps]
    seen = Counter(sample for batch in batches for sample in batch)
    assert seen.total() == len(seen) == order.steps_per_pass * slots
    assert sum(counts) - len(seen) < slots  # what is left over for want of a whole batch
    assert all(place in range(counts[shard]) for _, shard, place in seen)


@given(jobs())
@CASES
def test_windows_partition_each_stream(job: Job) -> None:
    for source, order in enumerate(job.orders()):
        for lane in range(job.layout.lanes):
            slots = len(job.layout.slots_of(source, lane))
            M, length = max(1, job.layout.window * slots // job.layout.lane_batch), order.steps_per_pass * slots
            touched = [
                (window, place)
                for step in range(order.steps_per_pass)
                for window, start, stop in order.windows_of_step(step, lane)
                for place in range(start, stop)
            ]
            assert touched == [(i // M, i % M) for i in range(length)]
            assert order.windows(lane) == -(-length // M)
            for number in range(order.windows(lane)):
                window = order.window(0, lane, number)
                size = min(M, length - number * M)
                assert sum(segment.stop - segment.start for segment in window.segments) == size
                assert sorted(window.order.tolist()) == list(range(size))
                assert all(segment.start < segment.stop for segment in window.segments)


@given(jobs(), st.integers(1, 60), st.data())
@CASES
def test_starting_at_a_step_equals_going_on(job: Job, steps: int, data: st.DataObject) -> None:
    going_on = job.orders()
    batches = [global_batch(job, step, going_on) for step in range(steps)]
    step = data.draw(st.integers(0, steps - 1))
    assert global_batch(job, step) == batches[step]
    assert global_batch(job, step, going_on) == batches[step]  # going back does not matter either


@given(jobs(), st.integers(1, 12), st.integers(1, 4), STEPS)
@CASES
def test_every_split_assembles_the_same_batch(job: Job, world_size: int, processes: int, step: int) -> None:
    assert attempt(job, range(step, step + 2), world_size, processes) == attempt(job, range(step, step + 2), 1, 1)


@given(jobs(lanes=st.integers(8, 12)), st.tuples(*[st.tuples(st.integers(0, 4), st.integers(1, 3))] * 4))
@CASES
def test_a_shrinking_cluster_goes_on_as_one_rank_would(job: Job, attempts: tuple[tuple[int, int], ...]) -> None:
    batches: list[list[Sample]] = []
    for world_size, (steps, processes) in zip((8, 6, 4, 1), attempts, strict=True):
        batches += attempt(job, range(len(batches), len(batches) + steps), world_size, processes)
    assert batches == attempt(job, range(len(batches)), 1, 1)


@given(jobs())
@CASES
def test_lanes_cut_the_line_of_slots(job: Job) -> None:
    layout, line = job.layout, []
    for lane in range(layout.lanes):
        shares = [layout.slots_of(source, lane) for source in range(len(layout.slots))]
        assert sum(map(len, shares)) == layout.lane_batch
        line += [(source, slot) for source, share in enumerate(shares) for slot in share]
    assert line == [(source, slot) for source, slots in enumerate(layout.slots) for slot in range(slots)]


# --- what a user counts on ---

ONE = Job(((30, 20, 25, 5, 40, 35, 45),), Layout(seed=3, global_batch=16, lanes=4, window=10, slots=(16,)))
TWO = Job(((4, 3, 5), (90, 110)), Layout(seed=0, global_batch=8, lanes=2, window=6, slots=(3, 5)))


def test_a_small_source_begins_again_while_a_large_one_is_in_its_first_pass() -> None:
    small, large = TWO.orders()
    assert (small.steps_per_pass, large.steps_per_pass) == (4, 40)
    seen = Counter(sample for step in range(40) for sample in global_batch(TWO, step))
    times = {name: [n for sample, n in seen.items() if sample[0] == name] for name in TWO.names}
    assert times == {"source-0": [10] * 12, "source-1": [1] * 200}


def batches_of(job: Job, pass_: int = 0) -> list[list[Sample]]:
    (order,) = job.orders()
    first = pass_ * order.steps_per_pass
    return [global_batch(job, first + step) for step in range(order.steps_per_pass)]


def test_passes_seeds_and_sources_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    other_seed = replace(ONE, layout=replace(ONE.layout, seed=4))
    variants = [batches_of(ONE, 0), batches_of(ONE, 1), batches_of(other_seed)]
    monkeypatch.setattr(Job, "names", ["other"])
    variants.append([[("source-0", *place) for _, *place in batch] for batch in batches_of(ONE)])
    for i, one in enumerate(variants):
        for other in variants[:i]:
            # Not merely turned: hardly any slot holds the same sample.
            same = sum(a == b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
            assert same < 0.1 * 16 * len(one)


def test_a_batch_mixes_shards() -> None:
    assert all(len({shard for _, shard, _ in batch}) >= 3 for batch in batches_of(ONE))


def test_no_sample_is_left_out_for_good() -> None:
    job = Job(((4, 3, 4),), Layout(seed=0, global_batch=8, lanes=2, window=3, slots=(8,)))  # 3 of 11 wait each pass
    seen = {sample for step in range(40) for sample in global_batch(job, step)}
    assert len(seen) == 11


def test_the_order_stays_as_it_is() -> None:
    order = SourceOrder("web", np.array([5, 0, 7, 3]), Layout(1, 4, 2, 3, (4,)))
    rows = [[place for lane in (0, 1) for _, *place in lane_rows([order], step, lane)] for step in (0, 5)]
    assert rows[0] == [[0, 1], [2, 6], [3, 0], [3, 1]]
    assert rows[1] == [[2, 4], [2, 5], [3, 2], [0, 0]]
    small, large = [(2, 2), (2, 1), (0, 3)], [(0, 55), (1, 23), (1, 25), (1, 32), (1, 31)]
    assert global_batch(TWO, 7) == [("source-0", *at) for at in small] + [("source-1", *at) for at in large]


def test_what_keys_are_made_of_is_plain() -> None:
    # repr(np.int64(1)) is not '1': a NumPy integer in a key would be another key.
    (order,) = ONE.orders()
    assert {type(n) for s in order.window(1, 2, 0).segments for n in (s.shard, s.start, s.stop)} == {int}


# --- LAION-2B's size ---


def test_a_place_among_230_000_shards_is_found_by_bisection(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 ranks with a lane each: a place costs one bisection for each shard that its window reads of,
    and nothing that grows with the shards is done but once a pass."""
    counts = np.random.default_rng(0).integers(8_000, 10_001, 230_000)
    layout = Layout(seed=0, global_batch=32_768, lanes=1_024, window=64, slots=(32_768,))
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def count(*arguments: object, **options: object) -> np.ndarray:
            result = function(*arguments, **options)
            calls[name] += 1
            calls["long results"] += result.size > 64
            return result

        return count

    monkeypatch.setattr(workers.data.order, "permutation", counted("permutation", permutation))
    monkeypatch.setattr(np, "searchsorted", counted("searchsorted", np.searchsorted))
    monkeypatch.setattr(np, "cumsum", counted("cumsum", np.cumsum))
    order = SourceOrder("laion", counts, layout)
    last = 2 * order.steps_per_pass - 1
    segments = 0
    for step in (0, 1, order.steps_per_pass // 2, order.steps_per_pass - 1, last):
        batch = []
        for rank in range(1_024):
            (lane,) = lanes_of_rank(rank, 1_024, layout.lanes)
            for number, start, stop in order.windows_of_step(step, lane):
                window = order.window(order.pass_of(step), lane, number)
                segments += len(window.segments)
                read = [(s.shard, place) for s in window.segments for place in range(s.start, s.stop)]
                batch += [read[i] for i in window.order[start:stop]]
        assert len(set(batch)) == len(batch) == 32_768
    assert calls == {
        "searchsorted": segments,
        "permutation": 5 * 1_024 + 2,  # of each window, and of the shards in two passes
        "cumsum": 2,
        "long results": 2 * 2,
    }
    assert segments < 1.1 * 5 * 1_024
