"""The memory of loader processes, at its peak, against what the plan states."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobspecs.columns import Image, Text
from jobspecs.data import Data, Source
from jobspecs.data import Loader as LoaderSpec
from jobspecs.storage import S3
from tests.workers.data.mixture import TOKENIZERS
from tests.workers.data.tars import copied, noise_jpeg, on_disk, tar_of
from workers.data.index import Index
from workers.data.loader import Loader
from workers.data.memory import LoaderMemory, loader_memory
from workers.data.order import Layout
from workers.storage import Storage

SHARDS, SAMPLES = 10, 250
LAYOUT = Layout(seed=0, global_batch=16, lanes=4, window=512, slots=(16,))
"""2,048 samples of 100 KB are shuffled among each other."""
STEPS = 4 * SHARDS * SAMPLES // LAYOUT.global_batch // 3
"""A pass and a third."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """A quarter of a GB: small images with 20 to 180 KB behind them, so that decoding takes no time."""
    folder = tmp_path_factory.mktemp("large")
    padding = np.random.default_rng(0).integers(20_000, 180_000, (SHARDS, SAMPLES)).tolist()
    tars = (
        tar_of(
            [
                member
                for place, size in enumerate(sizes)
                for member in ((f"{place}.jpg", noise_jpeg(shard, place) + bytes(size)), (f"{place}.txt", b"text"))
            ]
        )
        for shard, sizes in enumerate(padding)
    )
    yield on_disk(folder, list(tars))
    shutil.rmtree(folder)


def peak_bytes(pid: int) -> int:
    """The most that a process ever had in memory, what it shares with others in full: libraries, slots."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(kilobytes) << 10


def measure(index: Index, processes: int, s3: S3) -> tuple[LoaderMemory, int]:
    """What the plan says, and the sum of the processes' peaks after STEPS steps."""
    data = Data(
        sources=[Source(name=index.source, urls=["*"])],
        image=Image(size=64),
        text=Text(context_length=8),
        loader=LoaderSpec(processes=processes),
    )
    part = {"rank": 0, "world_size": 1, "first_step": 0, "last_step": 2 * STEPS}
    with Loader((index,), LAYOUT, data, TOKENIZERS, s3, **part) as batches:
        for _, batch in zip(range(STEPS), batches, strict=False):
            assert batch.rows.valid.all()
        peaks = [peak_bytes(process._process.pid) for process in batches._processes]
    return loader_memory(data, (index,), {}, LAYOUT, 1), sum(peaks)


def check(stated: LoaderMemory, measured: int) -> None:
    """The figure holds, and is not far above: 1.25 to 1.55 times what was measured."""
    assert stated.windows > 200e6, "windows are most of it"
    assert stated.windows + stated.read_ahead < measured, "they are in fact held"
    assert measured <= stated.total < 2 * measured, f"{stated}, and measured were {measured}"


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_on_disk(source: Index, processes: int) -> None:
    check(*measure(source, processes, S3()))


def test_shards_in_object_storage(source: Index, s3_server: str) -> None:
    s3, folder = S3(endpoint=s3_server), f"s3://bucket-{secrets.token_hex(4)}"
    storage = Storage(s3)
    storage._s3.client.create_bucket(Bucket=folder.removeprefix("s3://"))
    there = copied(source, folder, storage)
    try:
        stated, measured = measure(there, 2, s3)
    finally:
        for uri in there.uris:  # the server has them in its memory
            storage.delete(uri)
    assert stated.read_ahead > 90e6
    check(stated, measured)
