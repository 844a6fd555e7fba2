"""A lane's rows: what each slot holds, and what becomes of samples that can't be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from jobspecs.data import Data, Image, Source, Text
from jobspecs.errors import StorageError
from workers.data.decode import image_array
from workers.data.index import Index
from workers.data.keyed import hash64
from workers.data.lane import Lane
from workers.data.order import Layout
from workers.data.rows import BadSample, Rows
from workers.data.tokenize import byte_tokens
from workers.storage import Storage

IMAGE = Image(size=8, crop_scale=[0.3, 1.0], flip=0.5)
DATA = Data(sources=[Source(name="noise", urls=["*"])], image=IMAGE, text=Text(context_length=32))
# One lane, one window: in a pass each sample stands once, wherever.
COUNT = 6
LAYOUT = Layout(seed=5, global_batch=COUNT, lanes=1, window=COUNT)


@pytest.fixture
def source(tmp_path: Path, tar_of: Callable[..., bytes]) -> Callable[[Sequence[tuple[str, bytes]]], Index]:
    """Writes one shard of these members, of `COUNT` samples by the index."""

    def write(members: Sequence[tuple[str, bytes]]) -> Index:
        path = tmp_path / "shard.tar"
        path.write_bytes(tar_of(members))
        return Index("noise", (f"file://{path}",), (path.stat().st_size,), ("",), (COUNT,))

    return write


def filled(index: Index, step: int = 0, data: Data = DATA) -> tuple[Rows, list[BadSample]]:
    rows = Rows.empty(COUNT, data)
    return rows, Lane(0, index, LAYOUT, data, Storage()).fill(step, rows, 0)


def row_of(rows: Rows, shard: int, place: int, key: str) -> int:
    (row,) = np.flatnonzero(rows.ids == hash64("noise", shard, place, key))
    return int(row)


@pytest.mark.parametrize("pass_", [0, 1])
def test_rows_hold_the_sample_its_identity_and_its_draw(
    tmp_path: Path,
    write_source: Callable[[Path, Sequence[int]], Index],
    noise_jpeg: Callable[..., bytes],
    pass_: int,
) -> None:
    rows, bad = filled(write_source(tmp_path, [2, 4]), step=pass_)
    assert bad == []
    assert rows.valid.all()
    for shard, place in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]:
        row = row_of(rows, shard, place, f"{shard}-{place}")
        assert (rows.tokens[row] == byte_tokens(f"sample {place} of shard {shard}", 32)).all()
        draw = (LAYOUT.seed, "crop", pass_, "noise", shard, place)
        assert (rows.images[row] == image_array(noise_jpeg(shard, place), IMAGE, draw)).all()


def test_crops_are_drawn_anew_in_each_pass(
    tmp_path: Path, write_source: Callable[[Path, Sequence[int]], Index]
) -> None:
    index = write_source(tmp_path, [COUNT])
    (one, _), (other, _) = filled(index, 0), filled(index, 1)
    for place in range(COUNT):
        a, b = (row_of(rows, 0, place, f"0-{place}") for rows in (one, other))
        assert (one.images[a] != other.images[b]).any()


def test_going_on_into_another_pass_equals_starting_there(
    tmp_path: Path, write_source: Callable[[Path, Sequence[int]], Index]
) -> None:
    index = write_source(tmp_path, [COUNT])
    lane = Lane(0, index, LAYOUT, DATA, Storage())
    for step in range(3):  # each pass is one window, number 0
        rows = Rows.empty(COUNT, DATA)
        lane.fill(step, rows, 0)
        fresh, _ = filled(index, step)
        assert (rows.ids == fresh.ids).all()
        assert (rows.images == fresh.images).all()


def test_alternatives_of_a_column_are_tried_in_their_order(
    source: Callable[..., Index], noise_jpeg: Callable[..., bytes]
) -> None:
    members = [(f"{n}.{name}", noise_jpeg(n)) for n in range(COUNT) for name in ("png", "JPEG")]
    members += [("x.txt", b"")]  # texts are of no interest here
    data = DATA.model_copy(update={"text": Text(column="PNG;txt", context_length=3)})
    rows, bad = filled(source(members), data=data)
    assert {sample.cause for sample in bad} == {"undecodable"}  # as a text, the png is no UTF-8
    data = DATA.model_copy(update={"image": Image(size=8, column="WebP;JPEG")})
    _, bad = filled(source(members), data=data)
    assert {sample.cause for sample in bad} == {"missing_column"}
    assert not rows.valid.any()


def test_what_can_not_be_used_is_masked_and_named(
    source: Callable[..., Index], noise_jpeg: Callable[..., bytes]
) -> None:
    index = source(
        [
            ("a.jpg", noise_jpeg(0)),
            ("a.txt", b"good"),
            ("b.jpg", noise_jpeg(1)[:200]),
            ("b.txt", b"bad image"),
            ("c.jpg", noise_jpeg(2)),
            ("c.txt", b"\xff bad text"),
            ("d.jpg", noise_jpeg(3)),
            ("e.txt", b"no image"),
        ]
    )
    rows, bad = filled(index)
    uri = index.uris[0]
    assert sorted(bad, key=lambda sample: sample.place) == [
        BadSample(uri, 1, "b", "undecodable"),
        BadSample(uri, 2, "c", "undecodable"),
        BadSample(uri, 3, "d", "missing_column"),
        BadSample(uri, 4, "e", "missing_column"),
        BadSample(uri, 5, "", "truncated"),
    ]
    good = row_of(rows, 0, 0, "a")
    assert np.flatnonzero(rows.valid).tolist() == [good]
    # A masked row carries its identity and nothing else.
    masked = ~rows.valid
    assert not rows.images[masked].any()
    assert not rows.tokens[masked].any()
    expected = {hash64("noise", 0, place, key) for place, key in enumerate(["a", "b", "c", "d", "e", ""])}
    assert set(rows.ids.tolist()) == expected


def test_rows_go_where_they_are_told(tmp_path: Path, write_source: Callable[[Path, Sequence[int]], Index]) -> None:
    index = write_source(tmp_path, [COUNT])
    alone, _ = filled(index)
    rows = Rows.empty(COUNT + 5, DATA)
    Lane(0, index, LAYOUT, DATA, Storage()).fill(0, rows, 3)
    assert (rows.ids[3:-2] == alone.ids).all()
    assert (rows.images[3:-2] == alone.images).all()
    assert rows.valid.tolist() == [False] * 3 + [True] * COUNT + [False] * 2


def test_a_window_is_read_once(tmp_path: Path, write_source: Callable[[Path, Sequence[int]], Index]) -> None:
    index = write_source(tmp_path, [24])
    layout = Layout(seed=0, global_batch=2, lanes=1, window=8)
    opened = []

    class Counting(Storage):
        def open(self, uri: str, start: int = 0) -> BinaryIO:
            opened.append(uri)
            return super().open(uri, start)

    lane = Lane(0, index, layout, DATA, Counting())
    reads = []
    for step in range(12):
        lane.fill(step, Rows.empty(2, DATA), 0)
        reads.append(len(opened))
    # Four steps a window; the window in which the ring closes reads the shard twice.
    assert [reads[step] == reads[step - 1] for step in range(1, 12)] == [step % 4 != 0 for step in range(1, 12)]
    assert reads[-1] in (3, 4)


def test_a_missing_shard_is_an_error(tmp_path: Path, write_source: Callable[[Path, Sequence[int]], Index]) -> None:
    index = replace(write_source(tmp_path, [COUNT]), uris=("file:///nowhere/x.tar",))
    with pytest.raises(StorageError, match=r"file:///nowhere/x\.tar"):
        filled(index)
