"""Hard negatives that a job mined: a version of them in its run directory, a file a shard, read as the shard is.

    <run>/negatives/v00001/<source>/00000-<hash of what is mined and how>.parquet
        row         int64           place of the sample in the tar, from 0
        negatives   list of string  the nearest first
    <run>/negatives/v00001/….json                       beside each: what was mined
    <run>/negatives/v00001/manifest.json                which files make up the version, written last

They are found by source, shard and place, so that neither ranks nor loader processes change which sample has which.
Memory: each lane holds those of the shard that it reads.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobspecs.errors import DataError, NotFoundError
from workers.storage import Storage, join

FORMAT = "tandem-negatives/1"

Negatives = Mapping[int, list[str]]
"""Texts by the place of their sample."""


@dataclass(frozen=True)
class TableFile:
    """The negatives of a shard."""

    name: str
    """Below the version's folder."""
    sha256: str
    """`content_hash` of what it holds."""


@dataclass(frozen=True)
class NegativesTable:
    """A version of a run's negatives."""

    uri: str
    """Of its folder."""
    version: int
    """From 1; 0 is none: no sample has any."""
    files: dict[str, tuple[TableFile, ...]]
    """By source, in the order of its index's shards."""

    @property
    def digest(self) -> str:
        """Tells tables of other negatives apart; part of the digest of each batch that trains with them. Empty where
        there are none."""
        if not self.version:
            return ""
        hashes = {source: [file.sha256 for file in files] for source, files in sorted(self.files.items())}
        return hashlib.sha256(json.dumps([self.version, hashes]).encode()).hexdigest()

    def of_shard(self, storage: Storage, source: str, shard: int) -> Negatives:
        """The negatives of a source's shard of that number. Raises DataError: they are not those that the version is
        made of; StorageError."""
        if not self.version:
            return {}
        file = self.files[source][shard]
        uri = join(self.uri, file.name)
        try:
            found = from_parquet(storage.read(uri))
        except NotFoundError as error:
            raise DataError(f"{uri} is gone: {_REMEDY}") from error
        except ValueError as error:
            raise DataError(f"{uri} can't be read ({error}): {_REMEDY}") from error
        if content_hash(found) != file.sha256:
            raise DataError(f"{uri} holds other negatives than were mined: {_REMEDY}")
        return found

    def to_json(self, **more: Any) -> bytes:
        """As stored in manifest.json, beside what else is to be said of the version."""
        return json.dumps(
            {
                "format": FORMAT,
                "version": self.version,
                "digest": self.digest,
                **more,
                "files": {source: [asdict(file) for file in files] for source, files in self.files.items()},
            },
            indent=2,
        ).encode()


NONE = NegativesTable("", 0, {})
"""Of a job that mines later."""
_REMEDY = "bring a copy of the run's folder `negatives` back, or train the job anew under another name"


def read_table(storage: Storage, uri: str) -> NegativesTable | None:
    """The version in the folder at `uri`; None where it is not mined yet. Raises DataError, StorageError."""
    manifest = join(uri, "manifest.json")
    try:
        stored = json.loads(storage.read(manifest))
        if stored["format"] != FORMAT:
            raise ValueError(f"its format is {stored['format']}")
        files = {source: tuple(TableFile(**file) for file in files) for source, files in stored["files"].items()}
        table = NegativesTable(uri, stored["version"], files)
        if table.digest != stored["digest"]:
            raise ValueError("it names other files than it was written with")
    except NotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{manifest} can't be read ({error}): {_REMEDY}") from error
    return table


def content_hash(negatives: Negatives) -> str:
    """sha256 of what a file holds, whichever version of a library wrote it."""
    hashed = hashlib.sha256()
    for place in sorted(negatives):
        hashed.update(json.dumps([place, negatives[place]]).encode() + b"\n")
    return hashed.hexdigest()


def to_parquet(negatives: Negatives) -> bytes:
    """The file of a shard."""
    import pyarrow as arrow  # which loader processes of other jobs do without
    import pyarrow.parquet as parquet

    places = sorted(negatives)
    columns = {
        "row": arrow.array(places, arrow.int64()),
        "negatives": arrow.array([negatives[place] for place in places], arrow.list_(arrow.string())),
    }
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def from_parquet(data: bytes) -> Negatives:
    """The inverse of `to_parquet`. Raises ValueError: it is no such file."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(arrow.BufferReader(data), use_threads=False)
        return dict(zip(table["row"].to_pylist(), table["negatives"].to_pylist(), strict=True))
    except (arrow.ArrowException, OSError, KeyError) as error:
        raise ValueError(str(error)) from error
