"""The cache of ranges where it is used: by several processes at once, and by the streams of S3."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobspecs.data import Cache
from jobspecs.errors import DataError
from jobspecs.storage import S3
from tests.faulty_proxy import FaultyProxy
from tests.workers.storage.test_cache import held, put, ranges
from workers.storage import ObjectInfo, Storage
from workers.storage.cache import RangeCache

FIGHTER = """
import random, sys
from pathlib import Path
from workers.storage.cache import RangeCache
folder, bound, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
draws, cache, hits = random.Random(seed), RangeCache(folder, bound), 0
for _ in range(400):
    number = draws.randrange(12)
    content = random.Random(number).randbytes(100_000 - number)
    buffer = memoryview(bytearray(len(content)))
    if cache.get("s3://b/k", "v1", number, buffer):
        assert bytes(buffer) == content, "wrong bytes"
        hits += 1
    else:
        cache.put("s3://b/k", "v1", number, memoryview(content))
assert cache.failures == 0, "the disk failed"
print(hits)
"""


def test_processes_that_share_a_folder_keep_the_bound(tmp_path: Path) -> None:
    bound = 450_000  # four ranges, by six processes that want twelve
    RangeCache(tmp_path, bound)
    command = [sys.executable, "-c", FIGHTER, str(tmp_path), str(bound)]
    fighters = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in range(6)
    ]
    seen = [held(tmp_path)]
    while any(fighter.poll() is None for fighter in fighters):
        seen.append(held(tmp_path))
        if len(seen) == 200:
            fighters[0].kill()
    ended = [fighter.communicate() for fighter in fighters]
    assert [error for _, error in ended] == [""] * 6
    assert all(int(hits) > 0 for hits, _ in ended[1:])
    assert max(seen) <= bound
    assert max(seen) > 300_000
    cache = RangeCache(tmp_path, bound)
    assert list(tmp_path.glob("*.tmp")) == []
    put(cache, 0)
    assert held(tmp_path) == sum(path.stat().st_size for path in ranges(tmp_path)) + 8


@pytest.mark.parametrize("read_ahead", [0, 2])
@pytest.mark.usefixtures("small_ranges")
def test_a_hit_takes_no_request(
    s3_server: str, s3_storage: Storage, bucket: str, tmp_path: Path, read_ahead: int
) -> None:
    uri, data = f"s3://{bucket}/k", os.urandom(4500)
    known = s3_storage.write(uri, data)
    section = Cache.model_construct(folder=str(tmp_path), max_size=20_000)
    with FaultyProxy(s3_server) as proxy:
        storage = Storage(S3(endpoint=proxy.url), section, read_ahead)

        def read(start: int, known: ObjectInfo) -> tuple[bytes, int]:
            """What comes, and the number of requests that it took."""
            before = len(proxy.requests)
            with storage.open(uri, start, known=known) as stream:
                return stream.read(), len(proxy.requests) - before

        assert read(2345, known) == (data[2345:], 3)
        assert read(0, known) == (data, 2)
        assert read(0, known) == (data, 0)
        assert read(4499, known) == (data[4499:], 0)
        assert read(5000, known) == (b"", 0)
        changed = s3_storage.write(uri, data[::-1])
        assert read(0, changed) == (data[::-1], 5)
        assert read(0, known) == (data, 0)  # the cache has what the index describes
        with storage.open(uri) as stream:
            assert stream.read() == data[::-1]  # without an index the cache is not asked
        with pytest.raises(DataError), Storage(S3(endpoint=proxy.url)).open(uri, known=known) as stream:
            stream.read()
