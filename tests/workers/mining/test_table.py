"""The file of a shard's negatives: the first that was written counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobspecs.errors import DataError
from workers.data.negatives import content_hash, from_parquet
from workers.mining.mine import Mined
from workers.mining.pairs import Pairs
from workers.mining.table import Found, Record, Table, read_record, record_of, total
from workers.storage import ObjectInfo, Storage

SHARD = ObjectInfo("file:///x.tar", 1, "")
EMPTY = np.empty(0, np.int64)
FOUR, ASK = np.arange(4), np.ones(4, np.bool_)
PAIRS = Pairs(FOUR, FOUR, ASK, FOUR, EMPTY.reshape(0, 2), EMPTY.reshape(2, 0), 5, EMPTY)


def mined(*negatives: list[str]) -> Mined:
    return Mined(np.arange(len(negatives)) + 1, list(negatives))


def test_what_was_written_first_counts(tmp_path: Path) -> None:
    storage, out = Storage(), f"file://{tmp_path}/00000-abc.parquet"
    first = mined(["a", "b"], ["half \ud800"], [])
    record = Table().write(storage, SHARD, out, PAIRS, first, 2)
    written = {1: ["a", "b"], 2: ["half ?"], 3: []}
    assert from_parquet(storage.read(out)) == written
    assert record == read_record(storage, out) == Record(4, 3, 2, 1, 3, content_hash(written))
    # Its record got lost, and the task runs again on another machine.
    storage.delete(record_of(out))
    assert Table().write(storage, SHARD, out, PAIRS, mined(["b", "a"], ["c"], []), 2) == record
    assert read_record(storage, out) == record
    (tmp_path / "00000-abc.parquet").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"00000-abc\.parquet can't be read \(.+\)\. Delete it, and it is mined again"):
        Table().write(storage, SHARD, out, PAIRS, first, 2)
    assert total([record, record]) == Found(8, 6, 4, 2, 6)
