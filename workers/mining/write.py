"""A shard and its negatives -> a tar that has them: the samples' members as they are, and a list of texts for each.

    00000.tar            the copy, written in one step
    00000_stats.json     its count, where the plan of a job looks for it, and what was mined: written last

Memory: the new tar, once.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Container
from dataclasses import asdict, dataclass

from workers.data.find_shards import stem
from workers.data.scan import damaged
from workers.data.shards import extensions
from workers.data.tar import TarDamagedError, tar_samples
from workers.mining.mine import Mined
from workers.mining.pairs import Pairs
from workers.storage import ObjectInfo, Storage


@dataclass(frozen=True)
class Record:
    """What was mined for a shard, as its `_stats.json` has it under `mining`."""

    shard: str
    """URI of the shard that it was made of."""
    samples: int
    """In the new tar."""
    mined: int
    """Samples whose negatives were looked for."""
    fewer: int
    """Of those, how many got fewer than were asked for,"""
    none: int
    """and how many none."""
    negatives: int
    """In all."""
    left_out: int
    """Samples that the new tar lacks: filters don't keep them, or they are two in one."""


@dataclass(frozen=True)
class Tars:
    """The sink of `tandem mine`."""

    column: str
    """Of `data.negatives`."""

    def write(self, storage: Storage, shard: ObjectInfo, out: str, pairs: Pairs, mined: Mined, count: int) -> Record:
        """As `write_tar`."""
        return write_tar(storage, shard, out, self.column, pairs, mined, count)


def write_tar(
    storage: Storage, shard: ObjectInfo, out: str, column: str, pairs: Pairs, mined: Mined, count: int
) -> Record:
    """Writes the new tar to the URI `out`, and what is said of it beside it.

    column: of `data.negatives`; its first extension is that of the new members, those of its extensions that are there
    are left out. count: negatives that were asked for, of each sample. A sample that was not mined has an empty list.

    Raises DataError: the shard is damaged, or not the one that was mined; StorageError.
    """
    negatives = dict(zip(mined.places.tolist(), mined.negatives, strict=True))
    left_out = set(pairs.left_out.tolist())
    replaced = extensions(column)
    buffer = io.BytesIO()
    written = 0
    with (
        storage.open(shard.uri, known=shard) as stream,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        try:
            for place, sample in enumerate(tar_samples(stream, _ALL)):
                if place in left_out:
                    continue
                members = {name: content for name, content in sample.members.items() if name not in replaced}
                members[replaced[0]] = json.dumps(negatives.get(place, []), ensure_ascii=False).encode(
                    "utf-8", "replace"
                )
                for extension, content in members.items():
                    info = tarfile.TarInfo(f"{sample.key}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                written += 1
        except TarDamagedError as damage:
            raise damaged(shard.uri, damage.cause, f"after {written} samples") from damage
    numbers = [len(texts) for texts in mined.negatives]
    record = Record(
        shard=shard.uri,
        samples=written,
        mined=len(numbers),
        fewer=sum(number < count for number in numbers),
        none=numbers.count(0),
        negatives=sum(numbers),
        left_out=len(left_out),
    )
    storage.write(out, buffer.getbuffer())
    stats = {"count": written, "successes": written, "failed_to_download": 0, "failed_to_resize": 0}
    storage.write(stats_of(out), json.dumps({**stats, "mining": asdict(record)}, indent=4).encode())
    return record


def read_tar_record(storage: Storage, out: str) -> Record:
    """What was mined for the tar at the URI `out`, which is whole. Raises StorageError."""
    return Record(**json.loads(storage.read(stats_of(out)))["mining"])


def stats_of(out: str) -> str:
    """URI of the file beside a tar that says how many samples it has."""
    return f"{stem(out)}_stats.json"


class _All(Container[str]):
    """Every extension."""

    def __contains__(self, extension: object) -> bool:
        return True


_ALL = _All()
