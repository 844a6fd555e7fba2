"""A job of two sources with samples that can't be used and a damaged tar, and its global batches by loaders of
real processes: what is the same for any number of ranks and processes, any first step and any storage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jobspecs.columns import Image, Text
from jobspecs.data import Cache, Data, Source
from jobspecs.data import Loader as LoaderSpec
from jobspecs.storage import S3
from tests.workers.data.tars import noise_jpeg, on_disk, pairs, tar_of
from workers.data.index import Index
from workers.data.loader import Loader, RankBatch
from workers.data.order import Layout, SourceOrder, lanes_of_rank, rows_per_rank
from workers.data.rows import Rows, batch_digest
from workers.data.tokenize import byte_tokenizer

IMAGE = Image(size=8, crop_scale=[0.3, 1.0], flip=0.5)
TOKENIZERS = {"text": byte_tokenizer()}
COUNTS = {"photos": [7, 11, 1, 13, 9], "scans": [5, 14, 8]}
LAYOUT = Layout(seed=11, global_batch=16, lanes=8, window=5, slots=(11, 5))
"""Lane 5 has slots of both sources."""
STEPS = 12
"""Four passes of the photos, of 33 of 41 samples; two of the scans, of 25 of 27, and some of a third."""
ENDLESS = 1_000_000

CUT = ("photos", 3, 8)
"""The sample in whose text the tar ends."""
BAD = {
    ("photos", 0, 2): "missing_column",
    ("photos", 1, 4): "undecodable",
    ("scans", 1, 3): "undecodable",
    **{("photos", 3, place): "truncated" for place in range(8, 13)},
}
"""Why a sample can't be used, by source, shard and place."""


def write_mixture(folder: Path, padding: int = 0) -> tuple[Index, ...]:
    """The shards; `padding` bytes behind each scan make their tars long and change nothing else."""
    photos = [pairs(shard, count) for shard, count in enumerate(COUNTS["photos"])]
    scans = [pairs(shard, count, padding) for shard, count in enumerate(COUNTS["scans"])]
    del photos[0][3 * 2 + 1]
    photos[1][3 * 4] = ("1-4.jpg", noise_jpeg(1, 4)[:200])
    scans[1][3 * 3 + 1] = ("1-3.txt", b"\xff is no UTF-8")
    cut = {CUT[1]: lambda tar: tar[: tar.index(f"sample {CUT[2]} of".encode()) + 3]}
    return (
        on_disk(folder / "photos", [tar_of(members) for members in photos], "photos", cut),
        on_disk(folder / "scans", [tar_of(members) for members in scans], "scans"),
    )


def data_spec(processes: int = 1, prefetch: int = 2, cache: Cache | None = None) -> Data:
    return Data(
        sources=[Source(name=name, urls=["*"]) for name in COUNTS],
        image=IMAGE,
        text=Text(context_length=32),
        loader=LoaderSpec(processes=processes, prefetch=prefetch, cache=cache),
    )


def loader(
    indexes: tuple[Index, ...],
    processes: int = 1,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    last_step: int = STEPS,
    s3: S3 | None = None,
    cache: Cache | None = None,
    ahead: Callable[[int], memoryview] | None = None,
) -> Loader:
    return Loader(
        indexes,
        LAYOUT,
        data_spec(processes, cache=cache),
        TOKENIZERS,
        s3 or S3(),
        rank=rank,
        world_size=world_size,
        first_step=first_step,
        last_step=last_step,
        ahead=ahead,
    )


def global_batches(
    indexes: tuple[Index, ...],
    processes: int = 1,
    world_size: int = 1,
    first_step: int = 0,
    last_step: int = STEPS,
    s3: S3 | None = None,
    cache: Cache | None = None,
) -> list[RankBatch]:
    """By the loaders of all ranks at the same time."""
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(loader(indexes, processes, rank, world_size, first_step, last_step, s3, cache))
            for rank in range(world_size)
        ]
        return [_joined(shares) for shares in zip(*ranks, strict=True)]


def _joined(shares: Sequence[RankBatch]) -> RankBatch:
    """The global batch out of the ranks' batches, without their padding."""
    world_size, parts = len(shares), []
    for rank, share in enumerate(shares):
        filled = len(lanes_of_rank(rank, world_size, LAYOUT.lanes)) * LAYOUT.lane_batch
        arrays = {**share.rows.columns, "ids": share.rows.ids, "valid": share.rows.valid}
        for array in arrays.values():
            assert len(array) == rows_per_rank(world_size, LAYOUT)
            assert not array[filled:].any(), "padding is masked and empty"
        parts.append({name: array[:filled] for name, array in arrays.items()})
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = Rows(ids=whole.pop("ids"), valid=whole.pop("valid"), columns=whole)
    (step,) = {share.step for share in shares}
    return RankBatch(step, rows, [bad for share in shares for bad in share.bad])


def digests(batches: Sequence[RankBatch]) -> list[str]:
    return [batch_digest(batch.rows.ids, batch.rows.valid) for batch in batches]


def assert_equal(one: Sequence[RankBatch], other: Sequence[RankBatch]) -> None:
    """All rows of all batches, and what is said of those that are masked, but for the place of the shards."""
    assert digests(one) == digests(other)
    for a, b in zip(one, other, strict=True):
        assert a.step == b.step
        assert a.rows.columns.keys() == b.rows.columns.keys() == {"image", "image_key", "text"}
        for name, column in a.rows.columns.items():
            assert (column == b.rows.columns[name]).all()
        assert {(bad.key, bad.cause) for bad in a.bad} == {(bad.key, bad.cause) for bad in b.bad}
        assert len(a.bad) == len(b.bad) == np.count_nonzero(~a.rows.valid)


def slots(indexes: tuple[Index, ...], step: int) -> Iterator[tuple[str, int, int, int]]:
    """Source, shard, place and pass of each slot of a global batch, by the order."""
    orders = [SourceOrder(index.source, index.samples, LAYOUT, number) for number, index in enumerate(indexes)]
    for lane in range(LAYOUT.lanes):
        for order in orders:
            if not LAYOUT.slots_of(order.number, lane):
                continue
            pass_ = order.pass_of(step)
            for number, start, stop in order.windows_of_step(step, lane):
                window = order.window(pass_, lane, number)
                read = [(s.shard, place) for s in window.segments for place in range(s.start, s.stop)]
                yield from ((order.name, *read[i], pass_) for i in window.order[start:stop])
