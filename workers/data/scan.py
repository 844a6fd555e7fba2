"""One shard -> its samples' number, places and which of them the filters keep: what an index records.

The number comes from img2dataset's files beside the tar (`00000_stats.json`, `00000.parquet`) where they
are there, which costs a small request; else, and wherever there are filters, the tar is read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobspecs.data import Source
from jobspecs.errors import AccessDeniedError, DataError, NotFoundError
from workers.data.filters import keeps
from workers.data.find_shards import stem
from workers.data.shards import OFFSET_STRIDE, extensions
from workers.data.tar import TarDamagedError, TarSample, tar_samples
from workers.data.tar_header import BLOCK
from workers.storage import ObjectInfo, Storage


@dataclass(frozen=True, eq=False)
class Scan:
    """What a shard holds, packed as in an index: there may be hundreds of thousands of them."""

    stored: int
    """Samples in the tar."""
    offsets: NDArray[np.uint32]
    """Block of 512 bytes at which every OFFSET_STRIDE-th sample begins; empty if the tar was not read."""
    kept: NDArray[np.uint8] | None
    """A bit for each sample, whether the filters keep it; None without filters."""
    beside: str = ""
    """Tells the files beside the tar from others of their names (`workers.data.find_shards.files_beside`)."""

    @classmethod
    def of(cls, stored: int, offsets: Sequence[int] = (), kept: Sequence[int] | None = None) -> Scan:
        """From the bytes at which samples begin and the places that are kept."""
        bits = None
        if kept is not None:
            flags = np.zeros(stored, np.uint8)
            flags[list(kept)] = 1
            bits = np.packbits(flags)
        return cls(stored, (np.array(offsets, np.int64) // BLOCK).astype(np.uint32), bits)

    @property
    def samples(self) -> int:
        """Samples that are kept."""
        return self.stored if self.kept is None else int(np.unpackbits(self.kept).sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scan) and self._content == other._content

    __hash__ = None  # type: ignore[assignment]

    @property
    def _content(self) -> tuple[int, bytes, bytes | None, str]:
        return self.stored, self.offsets.tobytes(), None if self.kept is None else self.kept.tobytes(), self.beside


def sidecar_count(uri: str, storage: Storage) -> int | None:
    """Samples of the shard at `uri` by img2dataset's files beside it; None where there is none that says it.

    Raises DataError where one can't be understood.
    """
    stats = f"{stem(uri)}_stats.json"
    content = _read(storage, stats)
    if content is None:
        statuses = (_parquet(storage, uri, ["status"]) or {}).get("status")
        return None if statuses is None else sum(status == "success" for status in statuses)
    try:
        count = json.loads(content)["successes"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{stats} has no count under 'successes'. Mend it, or delete it to have the tar scanned."
        ) from error
    if type(count) is not int or count < 0:
        raise DataError(f"{stats}: 'successes' is {count!r}, not a count. Mend or delete it.")
    return count


def check_end(shard: ObjectInfo, storage: Storage) -> None:
    """One small read that tells a tar which was cut: a whole one ends with a block of zeros.

    Raises DataError, StorageError.
    """
    if shard.uri.endswith(".tar"):
        with storage.open(shard.uri, max(0, shard.size - BLOCK), known=shard) as end:
            if shard.size % BLOCK or end.read(BLOCK).strip(b"\0"):
                raise damaged(shard.uri, "truncated", "at its end")


def scan_shard(shard: ObjectInfo, source: Source, storage: Storage) -> Scan:
    """Reads the tar to its end. One without a sample is none to complain of: img2dataset writes such where no
    image of a shard could be fetched.

    Raises DataError for a tar that is damaged; StorageError.
    """
    keep = _filter(shard, source, storage)
    offsets: list[int] = []
    kept: list[int] = []
    stored = 0
    wanted = extensions(source.metadata) if source.filters else ()
    with storage.open(shard.uri, known=shard) as stream:
        try:
            for sample in tar_samples(stream, frozenset(wanted)):
                if stored % OFFSET_STRIDE == 0:
                    offsets.append(sample.offset)
                if keep is not None and keep(sample):
                    kept.append(stored)
                stored += 1
        except TarDamagedError as damage:
            raise damaged(shard.uri, damage.cause, f"after {stored} samples") from damage
    is_compressed = len(offsets) > 1 and offsets[1] == 0
    return Scan.of(stored, () if is_compressed else offsets, None if keep is None else kept)


def _filter(shard: ObjectInfo, source: Source, storage: Storage) -> Callable[[TarSample], bool] | None:
    """Whether a sample is kept, by the parquet file beside the tar if it has the fields, else by the
    sample's own metadata; None without filters."""
    if not source.filters:
        return None
    fields = [filter_.field for filter_ in source.filters]
    table = _parquet(storage, shard.uri, ["key", *fields])
    if table is not None and all(name in table for name in ("key", *fields)):
        columns = [table[name] for name in fields]
        rows = {
            str(key): dict(zip(fields, values, strict=True))
            for key, *values in zip(table["key"], *columns, strict=True)
        }

        def keep_row(sample: TarSample) -> bool:
            row = rows.get(sample.key.rpartition("/")[2])
            if row is None:
                raise DataError(
                    f"{stem(shard.uri)}.parquet has no row with the key of the sample {sample.key!r}. Write it again "
                    f"with the keys of the tar, or delete it to have the filters look at .{source.metadata}."
                )
            return keeps(source.filters, row)

        return keep_row
    names = extensions(source.metadata)

    def keep(sample: TarSample) -> bool:
        content = next((sample.members[name] for name in names if name in sample.members), b"{}")
        try:
            return keeps(source.filters, json.loads(content))
        except (ValueError, RecursionError):
            return False

    return keep


def _parquet(storage: Storage, uri: str, columns: list[str]) -> dict[str, list[Any]] | None:
    """Those of `columns` that the parquet file beside a shard has; None where there is no such file.
    Raises DataError."""
    name = f"{stem(uri)}.parquet"
    content = _read(storage, name)
    if content is None:
        return None
    import pyarrow as arrow
    import pyarrow.parquet

    try:
        file = arrow.parquet.ParquetFile(io.BytesIO(content))
        there = [column for column in columns if column in file.schema_arrow.names]
        table: dict[str, list[Any]] = file.read(columns=there).to_pydict()
    except (arrow.ArrowException, OSError, ValueError) as error:  # damage shows as any of them
        raise DataError(
            f"{name} is a damaged parquet file, or none. Write it again, or delete it to have the tar scanned."
        ) from error
    return table


def _read(storage: Storage, uri: str) -> bytes | None:
    try:
        return storage.read(uri)
    except (NotFoundError, AccessDeniedError):
        # Without the right to list a bucket, S3 says "denied" of what is not there; the tar itself must be.
        return None


def damaged(uri: str, cause: str, where: str) -> DataError:
    """The error of a tar that can't be read on."""
    return DataError(f"{uri}: {cause} {where}. Write the tar again or take it out.")
