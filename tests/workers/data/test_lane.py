"""The rows of lanes: any split of a mixture gives the same, and what becomes of samples that can't be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobspecs.columns import Image, Text
from jobspecs.data import Data, Source
from tests.workers.data.tars import InMemory, Members, caption, in_memory, noise_jpeg, on_disk, pairs, tar_of, texts
from workers.data.decode import decode_views
from workers.data.index import Index
from workers.data.keyed import hash64
from workers.data.lane import Lane
from workers.data.order import Layout, SourceOrder, lanes_of_rank
from workers.data.row_maker import RowMaker
from workers.data.rows import BadSample, Rows
from workers.data.shards import FAULTS
from workers.data.tokenize import byte_tokenizer
from workers.storage import Storage

TOKENIZERS = {"text": byte_tokenizer()}
TEXTS = Data(sources=[Source(name="any", urls=["*"])], text=Text(context_length=32))
ENDLESS = 1_000_000


def orders_of(indexes: Sequence[Index], layout: Layout) -> tuple[SourceOrder, ...]:
    return tuple(SourceOrder(index.source, index.samples, layout, n) for n, index in enumerate(indexes))


def lanes_of(
    numbers: Sequence[int],
    indexes: tuple[Index, ...],
    layout: Layout,
    storage: Storage,
    data: Data = TEXTS,
    first_step: int = 0,
) -> list[Lane]:
    """As one loader process has them."""
    orders, maker = orders_of(indexes, layout), RowMaker(data, TOKENIZERS, layout.seed)
    return [
        Lane(number, indexes, orders, maker, storage, first_step=first_step, last_step=ENDLESS) for number in numbers
    ]


# --- any split ----------------------------------------------------------------------------------------


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[list[int]], Layout]:
    """Sample counts of the shards of up to three sources, and a layout."""
    lanes, lane_batch = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    batch = lanes * lane_batch
    cuts = sorted(draw(st.sets(st.integers(1, batch - 1), max_size=2))) if batch > 1 else []
    slots = tuple(np.diff([0, *cuts, batch]).tolist())
    counts = [draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)) for _ in slots]
    for own, share in zip(counts, slots, strict=True):
        own[0] += max(0, share - sum(own))
    return counts, Layout(draw(st.integers(0, 2**32)), batch, lanes, draw(st.integers(1, 30)), slots)


def ids_of_step(indexes: tuple[Index, ...], layout: Layout, step: int) -> list[int]:
    """The identities in a global batch in slot order, by the order alone."""
    ids = []
    for lane in range(layout.lanes):
        for order in orders_of(indexes, layout):
            for number, start, stop in order.windows_of_step(step, lane) if layout.slots_of(order.number, lane) else ():
                window = order.window(order.pass_of(step), lane, number)
                read = [(s.shard, place) for s in window.segments for place in range(s.start, s.stop)]
                ids += [hash64(order.name, *read[i], "{}-{}".format(*read[i])) for i in window.order[start:stop]]
    return ids


@given(mixtures(), st.data())
@settings(deadline=None, max_examples=60)
def test_any_ranks_and_processes_from_any_step_fill_the_same_batches(
    case: tuple[list[list[int]], Layout], data: st.DataObject
) -> None:
    counts, layout = case
    tars = {f"s{n}": [tar_of(texts(*shard)) for shard in enumerate(own)] for n, own in enumerate(counts)}
    storage, indexes = in_memory(tars)
    world_size = data.draw(st.integers(1, layout.lanes + 1), label="ranks")
    processes = data.draw(st.integers(1, 3), label="processes")
    first = data.draw(st.integers(0, 20), label="first")
    shares = [
        share
        for rank in range(world_size)
        for process in range(processes)
        if (share := lanes_of_rank(rank, world_size, layout.lanes)[process::processes])
    ]
    of_share = [lanes_of(share, indexes, layout, storage, first_step=first) for share in shares]
    ids_of = {
        name: {hash64(name, shard, place, f"{shard}-{place}") for shard, n in enumerate(own) for place in range(n)}
        for name, own in zip(tars, counts, strict=True)
    }
    seen: dict[tuple[str, int], list[int]] = {}
    for step in range(first, first + 8):
        rows = Rows.empty(layout.global_batch, TEXTS)
        for share, lanes in zip(shares, of_share, strict=True):
            for number, lane in zip(share, lanes, strict=True):
                assert lane.fill(step, rows, number * layout.lane_batch) == []
        assert rows.ids.tolist() == ids_of_step(indexes, layout, step)
        assert rows.valid.all()
        for order, share in zip(orders_of(indexes, layout), layout.slots, strict=True):
            first_slot = sum(layout.slots[: order.number])
            own = rows.ids[first_slot : first_slot + share].tolist()
            assert set(own) <= ids_of[order.name]
            in_pass = seen.setdefault((order.name, order.pass_of(step)), [])
            in_pass += own
            assert len(set(in_pass)) == len(in_pass)


# --- rows ---------------------------------------------------------------------------------------------

IMAGE = Image(size=8, crop_scale=[0.3, 1.0], flip=0.5)
PAIRS = TEXTS.model_copy(update={"image": IMAGE})
# One lane, one window: in a pass each sample stands once, wherever.
COUNT = 6
LAYOUT = Layout(seed=5, global_batch=COUNT, lanes=1, window=COUNT, slots=(COUNT,))


def filled(index: Index, storage: Storage, step: int = 0, data: Data = PAIRS) -> tuple[Rows, list[BadSample]]:
    rows = Rows.empty(COUNT, data)
    (lane,) = lanes_of([0], (index,), LAYOUT, storage, data, step)
    return rows, lane.fill(step, rows, 0)


def row_of(rows: Rows, shard: int, place: int, key: str) -> int:
    (row,) = np.flatnonzero(rows.ids == hash64("noise", shard, place, key))
    return int(row)


@pytest.fixture(scope="module")
def noise() -> tuple[InMemory, Index]:
    """Two shards of COUNT pairs together."""
    storage, (index,) = in_memory({"noise": [tar_of(pairs(0, 2)), tar_of(pairs(1, 4))]})
    return storage, index


@pytest.mark.parametrize("pass_", [0, 1])
def test_rows_hold_the_sample_its_identity_and_its_draw(noise: tuple[InMemory, Index], pass_: int) -> None:
    storage, index = noise
    rows, bad = filled(index, storage, step=pass_)
    assert bad == []
    assert rows.valid.all()
    for shard, place in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]:
        row = row_of(rows, shard, place, f"{shard}-{place}")
        assert (rows.columns["text"][row] == TOKENIZERS["text"].encode(caption(shard, place), 32)).all()
        view = np.empty((1, 8, 8, 3), np.uint8)
        decode_views(noise_jpeg(shard, place), IMAGE, (LAYOUT.seed, "crop", pass_, "noise", shard, place), view)
        assert (rows.columns["image"][row] == view).all()


def test_crops_are_drawn_anew_in_each_pass(noise: tuple[InMemory, Index]) -> None:
    storage, index = noise
    (one, _), (other, _) = filled(index, storage, 0), filled(index, storage, 1)
    for shard, place in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]:
        a, b = (row_of(rows, shard, place, f"{shard}-{place}") for rows in (one, other))
        assert (one.columns["image"][a] != other.columns["image"][b]).any()


def test_rows_go_where_they_are_told(noise: tuple[InMemory, Index]) -> None:
    storage, index = noise
    alone, _ = filled(index, storage)
    rows = Rows.empty(COUNT + 5, PAIRS)
    (lane,) = lanes_of([0], (index,), LAYOUT, storage, PAIRS)
    lane.fill(0, rows, 3)
    assert (rows.ids[3:-2] == alone.ids).all()
    assert (rows.columns["image"][3:-2] == alone.columns["image"]).all()
    assert rows.valid.tolist() == [False] * 3 + [True] * COUNT + [False] * 2


UNUSABLE: Members = [
    ("a.jpg", noise_jpeg(0)),
    ("a.txt", b"good"),
    ("b.jpg", noise_jpeg(1)[:200]),
    ("b.txt", b"bad image"),
    ("c.jpg", noise_jpeg(2)),
    ("c.txt", b"\xff bad text"),
    ("d.jpg", noise_jpeg(3)),
    ("e.jpg", noise_jpeg(4)),
    ("e.jpg", noise_jpeg(5)),
    ("e.txt", b"two images"),
    ("f.jpg", noise_jpeg(6)),
    ("f.txt", b"behind the cut"),
]
CAUSES = ["", "undecodable", "undecodable", "missing_column", "unreadable", "truncated"]


def test_what_can_not_be_used_is_masked_and_named(tmp_path: Path) -> None:
    cut = {0: lambda tar: tar[: tar.index(b"f.jpg") + 9]}
    index = on_disk(tmp_path, [tar_of(UNUSABLE)], damage=cut)
    rows, bad = filled(index, Storage())
    keys = ["a", "b", "c", "d", "e", ""]
    samples = [BadSample(index.uris[0], place, keys[place], CAUSES[place]) for place in range(1, COUNT)]
    assert sorted(bad, key=lambda sample: sample.place) == samples
    assert np.flatnonzero(rows.valid).tolist() == [row_of(rows, 0, 0, "a")]
    # A masked row carries its identity and nothing else.
    assert not any(column[~rows.valid].any() for column in rows.columns.values())
    assert set(rows.ids.tolist()) == {hash64("noise", 0, place, key) for place, key in enumerate(keys)}


def test_images_with_too_many_pixels_are_masked(noise: tuple[InMemory, Index]) -> None:
    storage, index = noise
    small = PAIRS.model_copy(update={"image": Image(size=8, max_pixels=24 * 16 - 1)})
    rows, bad = filled(index, storage, data=small)
    assert {sample.cause for sample in bad} == {"too_large"}
    assert not rows.valid.any()
    assert {*CAUSES[1:], "too_large"} == set(FAULTS)


def test_a_row_that_held_another_sample_keeps_nothing_of_it(noise: tuple[InMemory, Index]) -> None:
    """Slots are filled again and again."""
    storage, index = noise
    small = PAIRS.model_copy(update={"image": Image(size=8, max_pixels=1)})
    rows, _ = filled(index, storage)
    (lane,) = lanes_of([0], (index,), LAYOUT, storage, small)
    assert len(lane.fill(0, rows, 0)) == COUNT
    assert not rows.valid.any()
    assert not any(column.any() for column in rows.columns.values())
    assert rows.ids.all()
