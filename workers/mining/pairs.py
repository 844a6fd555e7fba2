"""A shard -> keys of its queries and documents, and the documents' texts.

Of a list of texts in a JSON field the first stands for the sample, as in embeddings; all of a list of documents are
known to answer all of the sample's queries, of which training draws one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobspecs.columns import Text
from jobspecs.data import Data, Source
from workers.data.keyed import hash64
from workers.data.row_maker import image_key, texts_of
from workers.data.scan import damaged, scan_shard
from workers.data.shards import extensions
from workers.data.tar import TarDamagedError, TarSample, tar_samples
from workers.storage import ObjectInfo, Storage


@dataclass(frozen=True)
class Pairs:
    """The samples of a shard that have a document. n rows."""

    places: NDArray[np.int64]
    """(n,), ascending: their numbers in the tar."""
    documents: NDArray[np.int64]
    """(n,): keys of their documents."""
    asks: NDArray[np.bool_]
    """(n,): whether they have a query too."""
    queries: NDArray[np.int64]
    """(n,): keys of their queries, of a list the first; 0 where they have none."""
    further: NDArray[np.int64]
    """(m, 2): keys of a query and of a document of its sample, of all in their lists but the first of both."""
    alternatives: NDArray[np.int64]
    """(2, a): rows, ascending, and keys of further queries in their samples' lists."""
    stored: int
    """Samples in the tar."""
    left_out: NDArray[np.int64]
    """Places of samples that are no part of the data: filters don't keep them, or they are two in one."""

    def queries_of(self, row: int) -> list[int]:
        """Keys of all queries of the sample in a row that has one."""
        rows, further = self.alternatives
        start, end = np.searchsorted(rows, [row, row + 1])
        return [int(self.queries[row]), *further[start:end].tolist()]


@dataclass(frozen=True)
class Texts:
    """Of the rows of a `Pairs`."""

    documents: list[str]
    queries: list[str]
    """Empty where queries are images, or nobody asked for their texts."""


def read_pairs(
    storage: Storage,
    shard: ObjectInfo,
    data: Data,
    sides: tuple[str, str],
    source: Source | None = None,
    query_texts: bool = False,
) -> tuple[Pairs, Texts]:
    """Reads a shard of `source`, or one that none has filters for. sides: of the query and of the document.

    Raises DataError: the tar is damaged; StorageError.
    """
    kept = None
    if source is not None and source.filters:
        scan = scan_shard(shard, source, storage)
        kept = None if scan.kept is None else np.unpackbits(scan.kept, count=scan.stored)
    columns = _Columns(data, sides)
    rows: list[tuple[int, int, bool, int]] = []
    texts = Texts([], [])
    further: list[tuple[int, int]] = []
    alternatives: list[tuple[int, int]] = []
    left_out: list[int] = []
    place = -1
    with storage.open(shard.uri, known=shard) as stream:
        try:
            for place, sample in enumerate(tar_samples(stream, columns.wanted)):
                if sample.ambiguous or (kept is not None and not kept[place]):
                    left_out.append(place)
                    continue
                documents = columns.documents(sample)
                if not documents:
                    continue
                keys = [hash64(document) for document in documents]
                asked = columns.queries(sample)
                alternatives += [(len(rows), query) for query, _ in asked[1:]]
                further += [(query, key) for query, _ in asked for key in keys][1:]
                first, text = asked[0] if asked else (0, "")
                rows.append((place, keys[0], bool(asked), first))
                texts.documents.append(documents[0])
                if query_texts:
                    texts.queries.append(text)
        except TarDamagedError as damage:
            raise damaged(shard.uri, damage.cause, f"after {place + 1} samples") from damage
    places, document_keys, asks, queries = zip(*rows, strict=True) if rows else ((), (), (), ())
    pairs = Pairs(
        places=np.array(places, np.int64),
        documents=np.array(document_keys, np.int64),
        asks=np.array(asks, np.bool_),
        queries=np.array(queries, np.int64),
        further=np.array(further, np.int64).reshape(-1, 2),
        alternatives=np.ascontiguousarray(np.array(alternatives, np.int64).reshape(-1, 2).T),
        stored=place + 1,
        left_out=np.array(left_out, np.int64),
    )
    return pairs, texts


class _Columns:
    """What of a sample are its queries and what its documents."""

    def __init__(self, data: Data, sides: tuple[str, str]) -> None:
        query, document = sides
        self._query = None if query == "image" else data.texts[query]
        self._document = data.texts[document]
        image = data.image
        column = self._query.column if self._query is not None else image.column if image is not None else ""
        self._query_extensions = extensions(column)
        self._document_extensions = extensions(self._document.column)
        self.wanted = frozenset((*self._query_extensions, *self._document_extensions))

    def documents(self, sample: TarSample) -> list[str]:
        return self._texts(sample, self._document_extensions, self._document)

    def queries(self, sample: TarSample) -> list[tuple[int, str]]:
        """Their keys, and their texts, which an image has none of."""
        if self._query is None:
            content = _member(sample, self._query_extensions)
            return [] if content is None else [(image_key(content), "")]
        return [(hash64(text), text) for text in self._texts(sample, self._query_extensions, self._query)]

    @staticmethod
    def _texts(sample: TarSample, wanted: tuple[str, ...], section: Text) -> list[str]:
        """None where training would mask the sample."""
        content = _member(sample, wanted)
        if content is None:
            return []
        try:
            decoded = content.decode("utf-8")
            return [decoded] if section.field is None else texts_of(decoded, section.field)
        except ValueError:  # of JSON and of UTF-8
            return []


def _member(sample: TarSample, wanted: tuple[str, ...]) -> bytes | None:
    return next((sample.members[name] for name in wanted if name in sample.members), None)
