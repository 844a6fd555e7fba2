"""Samples in memory, and the rows that are made of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobspecs.columns import Document, Negatives, Query, Text
from jobspecs.data import Data, Source
from workers.data.row_maker import RowMaker
from workers.data.rows import Rows
from workers.data.shards import Sample
from workers.data.stream import Placed
from workers.data.tokenize import byte_tokenizer

LENGTH = 24
TOKENIZER = byte_tokenizer()


def data_of(**columns: Any) -> Data:
    return Data(sources=[Source(name="web", urls=["x.tar"])], **columns)


def maker_of(data: Data, seed: int = 5) -> RowMaker:
    return RowMaker(data, dict.fromkeys(data.texts, TOKENIZER), seed)


def placed(members: dict[str, bytes], pass_: int = 0, place: int = 3, fault: str | None = None) -> Placed:
    return Placed(Sample("key", members, fault, place), "web", 2, "file:///x.tar", pass_)


def used_rows(data: Data, count: int = 1) -> Rows:
    """Memory that held other rows before."""
    rows = Rows.empty(count, data)
    for array in (*rows.columns.values(), rows.ids, rows.valid):
        array[...] = 77
    return rows


def made(data: Data, members: dict[str, bytes], pass_: int = 0, place: int = 3) -> Rows:
    """A row that is as it should be."""
    rows = used_rows(data)
    assert maker_of(data).fill(placed(members, pass_, place), rows, 0) is None
    assert rows.valid.all()
    return rows


def text_in(tokens: NDArray[np.int32]) -> str:
    """The text that the byte tokenizer made these tokens of."""
    assert tokens[0] == TOKENIZER.begin
    return bytes(tokens[1 : tokens.tolist().index(TOKENIZER.end)].tolist()).decode()


def content(value: Any) -> bytes:
    return json.dumps(value).encode()


def captions(field: str = "captions") -> Data:
    return data_of(text=Text(column="json", field=field, context_length=LENGTH))


NEGATIVES = data_of(
    query=Query(context_length=LENGTH), document=Document(context_length=LENGTH), negatives=Negatives(count=3)
)
PAIR = {"query.txt": b"who?", "document.txt": b"me"}
