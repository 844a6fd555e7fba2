"""The pairs of an evaluation's samples, encoded: images with their texts, or queries with their documents.

Equal texts are one: each stands once, and a text's images are all its positives, as are all texts of an image that has
several. Queries and documents likewise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobspecs.columns import Text
from jobspecs.errors import DataError
from jobspecs.evaluation import Health, Retrieval
from workers.data.row_maker import texts_of
from workers.evaluate.encode import Encoder
from workers.evaluate.relevance import Relevance


@dataclass(frozen=True)
class Pairs:
    """What is paired with what. Q things of the first side, C of the second, d width."""

    sides: tuple[str, str]
    """(image, text) or (query, document)."""
    first: NDArray[np.float32]
    """(Q, d), L2-normalised."""
    second: NDArray[np.float32]
    """(C, d)."""
    relevance: Relevance
    """The first side as queries."""
    samples: int
    skipped: int
    fingerprint: str


def encoded_pairs(spec: Retrieval | Health, encoder: Encoder) -> Pairs:
    """Those of `spec.data`. Raises DataError: a text that can't be read, or fewer than two texts."""
    return _documents(spec, encoder) if "query" in encoder.data.texts else _images(spec, encoder)


def _images(spec: Retrieval | Health, encoder: Encoder) -> Pairs:
    section = encoder.data.texts["text"]
    images = encoder.images(spec.data.urls, section.column, spec.batch)
    texts = [_texts(spec, section, content) for content in images.column]
    number = _numbered(spec, itertools.chain(*texts))
    pairs = ((image, number[text]) for image, of_image in enumerate(texts) for text in of_image)
    return Pairs(
        sides=("image", "text"),
        first=images.features,
        second=encoder.texts(list(number), spec.batch),
        relevance=Relevance.of(pairs, len(texts), len(number)),
        samples=len(texts),
        skipped=images.skipped,
        fingerprint=images.fingerprint,
    )


def _documents(spec: Retrieval | Health, encoder: Encoder) -> Pairs:
    sections = [encoder.data.texts[side] for side in ("query", "document")]
    members = encoder.members(spec.data.urls, tuple(section.column for section in sections))
    samples = [
        tuple(_texts(spec, section, content) for section, content in zip(sections, contents, strict=True))
        for contents in members.columns
    ]
    queries = _numbered(spec, itertools.chain(*(asked for asked, _ in samples)), fewest=1)
    documents = _numbered(spec, itertools.chain(*(answers for _, answers in samples)))
    pairs = (
        (queries[query], documents[document])
        for asked, answers in samples
        for query, document in itertools.product(asked, answers)
    )
    return Pairs(
        sides=("query", "document"),
        first=encoder.texts(list(queries), spec.batch, "query"),
        second=encoder.texts(list(documents), spec.batch, "document"),
        relevance=Relevance.of(pairs, len(queries), len(documents)),
        samples=len(samples),
        skipped=members.skipped,
        fingerprint=members.fingerprint,
    )


def _numbered(spec: Retrieval | Health, texts: Iterable[str], fewest: int = 2) -> dict[str, int]:
    """Each distinct text with its number, in the order of the texts."""
    distinct = sorted(set(texts))
    if len(distinct) < fewest:
        raise DataError(f"evaluation {spec.name!r} needs two texts at least, found {len(distinct)}.")
    return {text: number for number, text in enumerate(distinct)}


def _texts(spec: Retrieval | Health, section: Text, content: bytes) -> list[str]:
    """The texts of a sample: one, or all that a field lists."""
    try:
        text = content.decode("utf-8")
        found = [text] if section.field is None else texts_of(text, section.field)
    except ValueError as error:
        what = "not UTF-8" if section.field is None else f"no text or list of texts in the field {section.field!r}"
        raise DataError(f"evaluation {spec.name!r}: a .{section.column} is {what}.") from error
    if not found:
        raise DataError(f"evaluation {spec.name!r}: a .{section.column} has no text in the field {section.field!r}.")
    return found
