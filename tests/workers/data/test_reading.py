"""What a loader process reads, as the rank sees it."""

from __future__ import annotations

from tests.workers.data.mixture import COUNTS, loader
from workers.data.index import Index
from workers.data.reading import Reading, reading_bytes
from workers.data.scan import Scan
from workers.storage import ObjectInfo


def index_of(source: str) -> Index:
    shards = [ObjectInfo(f"s3://b/{source}/{n}.tar", 512, "e") for n in range(3)]
    return Index.of(source, "", shards, [Scan.of(1, (0,))] * 3)


def test_the_rank_sees_lane_and_shard() -> None:
    memory, lanes, indexes = bytearray(reading_bytes(3)), (4, 6, 8), (index_of("photos"), index_of("scans"))
    process, rank = (Reading(memory, lanes, indexes) for _ in range(2))
    assert str(rank) == "the first samples of lanes 4, 6, 8"
    process.opens(0, source=0, shard=0)
    process.opens(1, source=1, shard=2)
    assert str(rank) == "the first samples of lanes 4, 6, 8"
    process.fills(1)
    assert str(rank) == "lane 6, s3://b/scans/2.tar"
    process.fills(0)
    assert str(rank) == "lane 4, s3://b/photos/0.tar"
    process.fills(2)
    assert str(rank) == "lane 8"
    rank.clear()
    assert str(rank) == "the first samples of lanes 4, 6, 8", "the memory may be gone by the time that somebody asks"


def test_a_loader_tells_what_its_next_batch_waits_for(mixture: tuple[Index, ...]) -> None:
    uris = {uri for index in mixture for uri in index.uris}
    assert len(uris) == sum(map(len, COUNTS.values()))
    with loader(mixture, processes=2) as batches:
        assert batches.reading() == ""
        for _ in batches:
            lane, uri = batches.reading().split(", ")
            assert lane in {"lane 1", "lane 3", "lane 5", "lane 7"}, "those of the last process"
            assert uri in uris
