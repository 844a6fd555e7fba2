"""Embedded rows as a Parquet file, which any vector store reads.

key       string                  the sample's key in its tar
shard     string                  URI of the tar
row       int64                   place of the sample in the tar, from 0
vector    fixed_size_list(d)      float32 or float16, L2-normalised
<field>   string                  a field of the sample's JSON: a text as it is, anything else as JSON, null
                                  where there is none
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from jobspecs.errors import UsageError
from workers.embed.settings import Record
from workers.storage import Storage

_RECORD = b"tandem"
_TAIL_BYTES = 64 << 10
"""Read of a file first: its metadata are a few kilobytes."""


@dataclass(frozen=True)
class Rows:
    """Embedded samples of a shard. n rows, d of the embedding."""

    keys: list[str]
    places: list[int]
    vectors: NDArray[np.float32]
    """(n, d)."""
    fields: dict[str, list[str | None]]
    """Values by field."""


def to_parquet(rows: Rows, record: Record) -> bytes:
    """The file."""
    settings = record.settings
    number = arrow.float16() if settings.dtype == "float16" else arrow.float32()
    vectors = np.ascontiguousarray(rows.vectors, settings.dtype).reshape(-1)
    flat = arrow.Array.from_buffers(number, len(vectors), [None, arrow.py_buffer(vectors)])
    columns = {
        "key": arrow.array(rows.keys, arrow.string()),
        "shard": arrow.array([record.shard] * len(rows.keys), arrow.string()),
        "row": arrow.array(rows.places, arrow.int64()),
        "vector": arrow.FixedSizeListArray.from_arrays(flat, settings.dim),
        **{name: arrow.array(values, arrow.string()) for name, values in rows.fields.items()},
    }
    table = arrow.table(columns).replace_schema_metadata({_RECORD: record.to_json()})
    buffer = io.BytesIO()
    parquet.write_table(
        table, buffer, compression="zstd", use_dictionary=["shard", *rows.fields], write_page_checksum=True
    )
    return buffer.getvalue()


def read_record(storage: Storage, uri: str, size: int) -> Record:
    """What the file of `size` bytes at `uri` says of itself; its rows are not read. Raises UsageError: it is not one
    of ours; StorageError."""
    try:
        tail = _tail(storage, uri, size, _TAIL_BYTES)
        footer = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < footer <= size:
            tail = _tail(storage, uri, size, footer)
        # Of a file only its end is looked at.
        metadata = parquet.read_metadata(arrow.BufferReader(b"PAR1" + tail[-footer:])).metadata or {}
        return Record.from_json(metadata[_RECORD])
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{uri} holds no embeddings of this version of Tandem. Name another --out, or delete the file"
        ) from error


def read_vectors(storage: Storage, uri: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places of the samples in their tar (n,), ascending, and their vectors (n, d), of the file at `uri`, which is one
    of ours. Raises StorageError."""
    table = parquet.read_table(arrow.BufferReader(storage.read(uri)), columns=["row", "vector"])
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    places: NDArray[np.int64] = table["row"].to_numpy()
    return places, flat.astype(np.float32, copy=False).reshape(-1, vectors.type.list_size)


def _tail(storage: Storage, uri: str, size: int, length: int) -> bytes:
    with storage.open(uri, max(0, size - length)) as stream:
        return stream.read()
