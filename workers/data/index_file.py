"""An index as a parquet file, which any tool reads: a row a shard, the filters and the source in its metadata.

Called where an index is kept or fetched; loader processes get it in memory and do without pyarrow. Columns
pass between pyarrow and NumPy as the buffers that they are: pyarrow's own conversions import pandas, which
takes longer than reading the index of 230,000 shards.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from jobspecs.errors import DataError
from workers.data.index import Index
from workers.data.ragged import Ragged, Strings

_FORMAT = b"tandem-index/2"
_SCHEMA = arrow.schema(
    {
        "uri": arrow.string(),
        "etag": arrow.string(),
        "size": arrow.int64(),
        "stored": arrow.int64(),
        "samples": arrow.int64(),
        "offsets": arrow.list_(arrow.field("element", arrow.int32())),
        "kept": arrow.binary(),
        "beside": arrow.string(),
    }
)
_ENCODING = {
    "uri": "DELTA_BYTE_ARRAY",
    "size": "DELTA_BINARY_PACKED",
    "stored": "DELTA_BINARY_PACKED",
    "samples": "DELTA_BINARY_PACKED",
    "offsets.list.element": "BYTE_STREAM_SPLIT",
}


def to_parquet(index: Index) -> bytes:
    """The file. `offsets` holds differences: small numbers, of which zstd keeps the low bytes."""
    table = arrow.Table.from_arrays(
        [
            _texts(index.uris.rows, arrow.string()),
            _texts(index.etags.rows, arrow.string()),
            _numbers(index.sizes, np.int64),
            _numbers(index.stored, np.int64),
            _numbers(index.samples, np.int64),
            arrow.ListArray.from_arrays(
                _numbers(_bounds(index.offsets), np.int32), _numbers(_differences(index.offsets), np.int32)
            ),
            _texts(index.kept, arrow.binary()),
            _texts(index.beside.rows, arrow.string()),
        ],
        schema=_SCHEMA.with_metadata({"format": _FORMAT, "source": index.source, "filters": index.filters}),
    )
    buffer = io.BytesIO()
    parquet.write_table(
        table, buffer, compression="zstd", use_dictionary=False, column_encoding=_ENCODING, write_page_checksum=True
    )
    return buffer.getvalue()


def from_parquet(content: bytes, name: str) -> Index:
    """The inverse of `to_parquet`; `name` stands for the file in the error. Raises DataError."""
    try:
        file = parquet.ParquetFile(arrow.BufferReader(content), page_checksum_verification=True)
        metadata = file.schema_arrow.metadata or {}
        if metadata.get(b"format") != _FORMAT or not file.schema_arrow.equals(_SCHEMA):
            raise DataError(f"{name} is no index of this version. Delete it, and make it again with `tandem index`.")
        table = file.read().combine_chunks()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"{name} can't be read as an index. Delete it, and make it again with `tandem index`."
        ) from error
    columns = {column: table[column].chunk(0) for column in table.column_names}
    return Index(
        source=metadata[b"source"].decode(),
        filters=metadata[b"filters"].decode(),
        uris=Strings(_rows(columns["uri"], np.uint8)),
        etags=Strings(_rows(columns["etag"], np.uint8)),
        sizes=_values(columns["size"], np.int64),
        stored=_values(columns["stored"], np.int64),
        samples=_values(columns["samples"], np.int64),
        offsets=_sums(_rows(columns["offsets"], np.uint32)),
        kept=_rows(columns["kept"], np.uint8),
        beside=Strings(_rows(columns["beside"], np.uint8)),
    )


def _numbers(values: NDArray[Any], dtype: Any) -> Any:
    buffer = arrow.py_buffer(np.ascontiguousarray(values, dtype))
    return arrow.Array.from_buffers(arrow.from_numpy_dtype(dtype), len(values), [None, buffer])


def _texts(rows: Ragged, type_: Any) -> Any:
    buffers = [None, arrow.py_buffer(_bounds(rows)), arrow.py_buffer(np.ascontiguousarray(rows.values, np.uint8))]
    return arrow.Array.from_buffers(type_, len(rows), buffers)


def _values(column: Any, dtype: Any) -> NDArray[Any]:
    """The numbers of a column without nulls."""
    return np.frombuffer(column.buffers()[-1], dtype)[column.offset :][: len(column)]


def _rows(column: Any, dtype: Any) -> Ragged:
    """The rows of a column of texts, bytes or lists without nulls."""
    _, bounds, *_, values = column.buffers()
    ends = np.frombuffer(bounds, np.int32)[column.offset :][: len(column) + 1].astype(np.int64)
    return Ragged(np.frombuffer(values, dtype)[ends[0] : ends[-1]], ends[1:] - ends[0])


def _bounds(rows: Ragged) -> NDArray[np.int32]:
    return np.concatenate([[0], rows.ends]).astype(np.int32)


def _starts(rows: Ragged) -> NDArray[np.int64]:
    """Where each row that is not empty begins."""
    starts = np.concatenate([np.zeros(1, np.int64), rows.ends])[:-1]
    return starts[starts < rows.ends]


def _differences(rows: Ragged) -> NDArray[np.int32]:
    """Each value less the one before it in its row, modulo 2³²."""
    differences = np.diff(rows.values, prepend=np.uint32(0))
    starts = _starts(rows)
    differences[starts] = rows.values[starts]
    return differences.view(np.int32)


def _sums(differences: Ragged) -> Ragged:
    """The inverse of `_differences`."""
    sums, starts = differences.values.copy(), _starts(differences)
    last_of_row = np.add.reduceat(sums, starts, dtype=np.uint32)
    sums[starts[1:]] -= last_of_row[:-1]  # so that one sum over all rows, in place, begins anew in each
    return Ragged(np.cumsum(sums, dtype=np.uint32, out=sums), differences.ends)
