"""Queries, their answers, and the hard negatives that they were trained with: how near each is to its query by the
model's first weights, and by its checkpoint's.

Negatives are those in the tars; of a job that mines for itself, those of its first version and of its newest one, which
is what mining changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import TandemError
from orchestrator.find_checkpoint import FoundCheckpoint
from orchestrator.report import geometry
from workers.data.negatives import NegativesTable
from workers.data.tokenize import Tokenizer
from workers.evaluate.encode import Encoder
from workers.evaluate.sample import Drawn, draw
from workers.models.build import build
from workers.run_inputs import load_indexes, load_negatives
from workers.storage import join

BATCH = 64
SHOWN, NEGATIVES = 8, 4
"""Queries that are shown, and how many negatives of each origin, at most."""


@dataclass(frozen=True)
class Compared:
    """A document, and its cosine to the query by the first weights and by the checkpoint's."""

    text: str
    before: float
    after: float
    origin: str = ""
    """Of a negative: which version of the mined ones; empty for those in the tars."""


@dataclass(frozen=True)
class Distribution:
    """Of cosines: shares of equal bins of [-1, 1]."""

    before: list[float]
    after: list[float]


@dataclass(frozen=True)
class Origin:
    """The negatives of one origin."""

    name: str
    queries: int
    """That have any."""
    beaten: tuple[float, float]
    """Share of those whose document is nearer than all of them, before and after."""
    cosines: Distribution


@dataclass(frozen=True)
class HardNegatives:
    """Before training, and after."""

    rows: list[tuple[str, Compared, list[Compared]]]
    """(query, its document, its negatives, nearest first)."""
    documents: Distribution
    origins: list[Origin]


@dataclass(frozen=True)
class _Asked:
    """A query with what it was trained with; negatives with their origins."""

    query: str
    document: str
    negatives: list[tuple[str, str]]


def hard_negatives(
    found: FoundCheckpoint, tokenizers: dict[str, Tokenizer], after: Encoder, drawn: Drawn, count: int
) -> HardNegatives | None:
    """Of `drawn`, or else of `count` samples of the training data; None where there are no negatives.

    Raises DataError, StorageError, and what building the model raises.
    """
    spec = found.spec
    if spec.data.negatives is None:
        return None
    asked = list(_mined(found, count) if spec.job_mining is not None else _in_tars(found, drawn, count))
    if not asked:
        return None
    first = build(spec.model, spec.data, spec.objective, spec.seed, tokenizers)
    return _compared(asked, Encoder(spec.data, found.storage, tokenizers, first), after)


def _in_tars(found: FoundCheckpoint, drawn: Drawn, count: int) -> Iterator[_Asked]:
    if not any(drawn.negatives):
        urls = [url for source in found.spec.data.sources for url in source.urls]
        drawn = draw(found.storage, found.spec.data, urls, count)
    for query, document, texts in zip(drawn.texts["query"], drawn.texts["document"], drawn.negatives, strict=True):
        if texts:
            yield _Asked(query, document, [("", text) for text in texts[:NEGATIVES]])


def _mined(found: FoundCheckpoint, count: int) -> Iterator[_Asked]:
    tables = _tables(found)
    if not tables:
        return
    for source, index in zip(
        found.spec.data.sources, load_indexes(found.storage, found.run, found.spec.data), strict=True
    ):
        number_of = {uri: number for number, uri in enumerate(index.uris)}
        drawn = draw(found.storage, found.spec.data, source.urls, -(-count // len(found.spec.data.sources)))
        shards = {uri: number_of[uri] for uri, _ in drawn.places if uri in number_of}
        mined = {
            (table.version, uri): table.of_shard(found.storage, source.name, number)
            for table in tables
            for uri, number in shards.items()
        }
        for (uri, place), query, document in zip(
            drawn.places, drawn.texts["query"], drawn.texts["document"], strict=True
        ):
            negatives = [
                (f"version {table.version}", text)
                for table in tables
                for text in mined.get((table.version, uri), {}).get(place, [])[:NEGATIVES]
            ]
            if negatives:
                yield _Asked(query, document, negatives)


def _tables(found: FoundCheckpoint) -> list[NegativesTable]:
    """The first version that is there, and the newest."""
    manifest = re.compile(r".*/negatives/v(\d+)/manifest\.json")
    infos = found.storage.list(join(found.run.uri, "negatives"))
    versions = sorted(int(match[1]) for info in infos if (match := manifest.fullmatch(info.uri)))
    return [load_negatives(found.storage, found.run, version) for version in sorted({*versions[:1], *versions[-1:]})]


def _compared(asked: Sequence[_Asked], before: Encoder, after: Encoder) -> HardNegatives:
    queries = [each.query for each in asked]
    documents = [[("", each.document), *each.negatives] for each in asked]
    both = [_cosines(encoder, queries, documents) for encoder in (before, after)]
    rows, start = [], 0
    for query, each in zip(queries, documents, strict=True):
        compared = [
            Compared(text, float(both[0][start + place]), float(both[1][start + place]), origin)
            for place, (origin, text) in enumerate(each)
        ]
        rows.append((query, compared[0], sorted(compared[1:], key=lambda one: -one.after)))
        start += len(each)
    names = sorted({one.origin for _, _, others in rows for one in others}, key=lambda name: (len(name), name))
    return HardNegatives(
        rows=[rows[number] for number in geometry.chosen(len(rows), SHOWN)],
        documents=_distribution([positive for _, positive, _ in rows]),
        origins=[_origin(name, rows) for name in names],
    )


def _origin(name: str, rows: Sequence[tuple[str, Compared, list[Compared]]]) -> Origin:
    own = [(positive, [one for one in others if one.origin == name]) for _, positive, others in rows]
    asking = [(positive, others) for positive, others in own if others]
    before = [positive.before > max(one.before for one in others) for positive, others in asking]
    after = [positive.after > max(one.after for one in others) for positive, others in asking]
    return Origin(
        name=name,
        queries=len(asking),
        beaten=(sum(before) / len(asking), sum(after) / len(asking)),
        cosines=_distribution([one for _, others in asking for one in others]),
    )


def _distribution(compared: Sequence[Compared]) -> Distribution:
    return Distribution(
        geometry.shares(np.array([one.before for one in compared])),
        geometry.shares(np.array([one.after for one in compared])),
    )


def _cosines(
    encoder: Encoder, queries: list[str], documents: Sequence[Sequence[tuple[str, str]]]
) -> NDArray[np.float64]:
    """Of each document to its query, one query after the other."""
    asked = np.repeat(encoder.texts(queries, BATCH, "query"), [len(each) for each in documents], axis=0)
    texts = [text for each in documents for _, text in each]
    cosines: NDArray[np.float64] = (asked.astype(np.float64) * encoder.texts(texts, BATCH, "document")).sum(1)
    return cosines


def why_not(found: FoundCheckpoint, error: TandemError | None) -> str:
    """Why there are none to show; empty where the spec has none."""
    if error is not None:
        return str(error)
    if found.spec.data.negatives is None:
        return ""
    if found.spec.job_mining is not None:
        return "None is mined yet."
    return f"No sample that was looked at has a {found.spec.data.negatives.column}."
