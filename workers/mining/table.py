"""A shard's negatives -> its file of a version in the run directory (workers/data/negatives.py), and what is said of it
beside it, which is written last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from jobspecs.errors import AlreadyExistsError, DataError
from workers.data.negatives import Negatives, content_hash, from_parquet, to_parquet
from workers.mining.mine import Mined
from workers.mining.pairs import Pairs
from workers.storage import ObjectInfo, Storage, join


@dataclass(frozen=True)
class Found:
    """What was mined for some samples."""

    samples: int
    """That have a document."""
    mined: int
    """Samples whose negatives were looked for."""
    fewer: int
    """Of those, how many got fewer than were asked for,"""
    none: int
    """and how many none."""
    negatives: int
    """In all."""


@dataclass(frozen=True)
class Record(Found):
    """What was mined for a shard."""

    sha256: str
    """`content_hash` of the file."""


@dataclass(frozen=True)
class Table:
    """The sink of a job that mines for itself."""

    def write(self, storage: Storage, shard: ObjectInfo, out: str, pairs: Pairs, mined: Mined, count: int) -> Record:
        """Writes the file at the URI `out` and its record, unless they are there. count: negatives that were asked
        for, of each sample. Raises DataError: what is there is damaged; StorageError."""
        negatives: Negatives = {
            place: [_utf8(text) for text in texts]
            for place, texts in zip(mined.places.tolist(), mined.negatives, strict=True)
        }
        try:
            storage.write(out, to_parquet(negatives), if_absent=True)
        except AlreadyExistsError:
            # By a task that Ray thought dead, or that had no time for its record. What is there counts: on another
            # machine rounding may have decided otherwise between two candidates.
            try:
                negatives = from_parquet(storage.read(out))
            except ValueError as error:
                raise DataError(f"{out} can't be read ({error}). Delete it, and it is mined again") from error
        numbers = [len(texts) for texts in negatives.values()]
        record = Record(
            samples=len(pairs.places),
            mined=len(numbers),
            fewer=sum(number < count for number in numbers),
            none=numbers.count(0),
            negatives=sum(numbers),
            sha256=content_hash(negatives),
        )
        storage.write(record_of(out), json.dumps(asdict(record)).encode())
        return record


def record_of(out: str) -> str:
    """URI of the record of the file at `out`."""
    return f"{out.removesuffix('.parquet')}.json"


def read_record(storage: Storage, out: str) -> Record:
    """What was mined for the file at the URI `out`. Raises StorageError."""
    return Record(**json.loads(storage.read(record_of(out))))


def read_found(storage: Storage, uri: str) -> Found:
    """What was mined for the version in the folder at `uri`, by its manifest. Raises StorageError."""
    manifest = json.loads(storage.read(join(uri, "manifest.json")))
    return Found(**{field.name: manifest[field.name] for field in fields(Found)})


def total(records: Sequence[Found]) -> Found:
    """Of all shards."""
    return Found(
        samples=sum(each.samples for each in records),
        mined=sum(each.mined for each in records),
        fewer=sum(each.fewer for each in records),
        none=sum(each.none for each in records),
        negatives=sum(each.negatives for each in records),
    )


def _utf8(text: str) -> str:
    """A text of JSON may hold half a character, which no file can."""
    return text.encode("utf-8", "replace").decode()
