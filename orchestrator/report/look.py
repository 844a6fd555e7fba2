"""What the newest checkpoint makes of a few samples: neighbours, a map, similarities, hard negatives.

The samples are those of the first evaluation whose data have all columns of the spec, else of the training data. torch
and the model are loaded here and nowhere else in a report.

Letters: n samples, d width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError, TandemError
from jobspecs.evaluation import data_of
from jobspecs.job import JobSpec
from jobspecs.storage import S3
from orchestrator.find_checkpoint import FoundCheckpoint, find_checkpoint
from orchestrator.report import geometry
from orchestrator.report.hard import HardNegatives, hard_negatives, why_not
from orchestrator.report.thumbnail import thumbnail
from workers.evaluate.encode import Encoder
from workers.evaluate.sample import Drawn, draw
from workers.trained import load_trained

SAMPLES = 384
"""That are encoded, at most. Each is a point of the map with its thumbnail: about 2 KB of the page."""
BATCH = 64
QUERIES, NEIGHBOURS = 8, 6
"""Rows and columns of a grid of neighbours."""


@dataclass(frozen=True)
class Item:
    """A thing that was embedded, to be shown."""

    text: str = ""
    """Its text; of an image the text that belongs to it, where there is one."""
    image: bytes | None = None
    """A thumbnail, JPEG."""


@dataclass(frozen=True)
class Neighbour:
    """A thing near to a query."""

    item: Item
    cosine: float
    is_match: bool
    """Whether it belongs to the query."""


@dataclass(frozen=True)
class Grid:
    """Nearest neighbours of some queries."""

    one: str
    """Side of the queries: image, text, query or document."""
    other: str
    """Side of the neighbours."""
    rows: list[tuple[Item, list[Neighbour]]]
    first_is_match: float
    """Share of all queries in the sample whose nearest neighbour belongs to them; NaN where nothing does."""


@dataclass(frozen=True)
class Point:
    """A thing on the map."""

    x: float
    y: float
    side: str
    item: Item


@dataclass(frozen=True)
class Map:
    """Embeddings in two dimensions."""

    points: list[Point]
    explained: float
    """Share of the variance within the sides that the plane keeps."""
    gap: float
    """Distance between the means of both sides."""


@dataclass(frozen=True)
class Look:
    """What the model makes of its samples."""

    step: int
    """Of the checkpoint."""
    samples: int
    source: str
    """Which data they are of, in words."""
    grids: list[Grid]
    map: Map
    positives: list[float]
    """Cosines of pairs that belong together: shares of equal bins of [-1, 1]; empty where there are no pairs."""
    negatives: list[float]
    """And of those that don't."""
    hard: HardNegatives | None
    """None where the samples have none."""
    hard_missing: str
    """Why there are no hard negatives, where the spec has some."""


def look(uri: str, s3: S3 | None) -> Look:
    """At the newest checkpoint of the run at `uri`. s3: how S3 is reached, in place of the spec's.

    Raises UsageError: nothing is committed yet; CheckpointError, DataError, StorageError.
    """
    found = find_checkpoint(uri, s3)
    spec = found.spec
    trained = load_trained(found.storage, spec, found.run, found.uri)
    encoder = Encoder(spec.data, found.storage, trained.tokenizers, trained.model)
    drawn, source = _drawn(found)
    sides = {name: _encoded(encoder, drawn, name) for name in _sides(spec)}
    items = {name: _items(drawn, name) for name in sides}
    owners = list(drawn.texts.values())
    grids = [_grid(one, other, sides, items, owners) for one, other in _directions(list(sides))]
    positives, negatives = _similarities(sides, owners)
    hard, fault = None, None
    try:
        hard = hard_negatives(found, trained.tokenizers, encoder, drawn, SAMPLES)
    except TandemError as error:  # of the training data, which the rest does without
        fault = error
    return Look(
        step=found.manifest.step,
        samples=len(drawn),
        source=source,
        grids=grids,
        map=_map(sides, items),
        positives=positives,
        negatives=negatives,
        hard=hard,
        hard_missing=why_not(found, fault),
    )


def _sides(spec: JobSpec) -> list[str]:
    """The two that are compared, or the one that is compared with itself."""
    if "query" in spec.data.texts:
        return ["query", "document"]
    return [*([] if spec.data.image is None else ["image"]), *spec.data.texts]


def _directions(sides: list[str]) -> list[tuple[str, str]]:
    if len(sides) == 1:
        return [(sides[0], sides[0])]
    one, other = sides
    return [(one, other)] if one == "query" else [(one, other), (other, one)]


def _sources(spec: JobSpec) -> Iterator[tuple[str, list[str]]]:
    """Data to look at, the best first: name and URLs."""
    pairs_first = sorted(spec.evaluations, key=lambda each: each.kind not in ("retrieval", "health"))
    for evaluation in pairs_first:
        yield f"evaluation {evaluation.name}", data_of(evaluation)["data"].urls
    for source in spec.data.sources:
        yield f"source {source.name}", source.urls


def _drawn(found: FoundCheckpoint) -> tuple[Drawn, str]:
    """Raises DataError: no data with two samples that have all columns."""
    reasons = []
    for name, urls in _sources(found.spec):
        try:
            drawn = draw(found.storage, found.spec.data, urls, SAMPLES)
        except TandemError as error:
            reasons.append(f"{name}: {error}")
            continue
        if len(drawn) > 1:
            return drawn, name
        reasons.append(f"{name}: {len(drawn)} samples with all columns of the spec, {drawn.skipped} without")
    raise DataError("there are no samples to look at. " + "; ".join(reasons))


def _encoded(encoder: Encoder, drawn: Drawn, side: str) -> NDArray[np.float32]:
    """(n, d)."""
    if side != "image":
        return encoder.texts(drawn.texts[side], BATCH, side)
    assert drawn.images is not None, "the spec has one"
    return encoder.pixels(drawn.images, BATCH)


def _items(drawn: Drawn, side: str) -> list[Item]:
    if side != "image":
        return [Item(text) for text in drawn.texts[side]]
    assert drawn.images is not None, "the spec has one"
    texts = next(iter(drawn.texts.values()), [""] * len(drawn))
    return [Item(text, thumbnail(pixels)) for text, pixels in zip(texts, drawn.images, strict=True)]


def _grid(
    one: str,
    other: str,
    sides: dict[str, NDArray[np.float32]],
    items: dict[str, list[Item]],
    owners: Sequence[Sequence[str]],
) -> Grid:
    """owners: texts of each sample, column by column: things of samples that share one belong together."""
    queries, candidates = _distinct(items[one]), _distinct(items[other])
    cosines = geometry.cosines(sides[one][queries], sides[other][candidates])
    if one == other:
        np.fill_diagonal(cosines, -np.inf)
    match = _belong(owners, queries, candidates)
    order = geometry.nearest(cosines, min(NEIGHBOURS, len(candidates) - (one == other)))
    rows = [
        (
            items[one][queries[row]],
            [
                Neighbour(items[other][candidates[place]], float(cosines[row, place]), bool(match[row, place]))
                for place in order[row]
            ],
        )
        for row in geometry.chosen(len(queries), QUERIES)
    ]
    first = match[range(len(queries)), order[:, 0]]
    return Grid(one, other, rows, float(first.mean()) if owners else float("nan"))


def _distinct(items: Sequence[Item]) -> list[int]:
    """Numbers of the items, each text once; images are all different."""
    first: dict[object, int] = {}
    for number, item in enumerate(items):
        first.setdefault(item.text if item.image is None else number, number)
    return list(first.values())


def _belong(owners: Sequence[Sequence[str]], one: Sequence[int], other: Sequence[int]) -> NDArray[np.bool_]:
    """(n, m): whether two samples have a text in common."""
    match = np.zeros((len(one), len(other)), np.bool_)
    for column in owners:
        texts = np.unique(np.array(column, object), return_inverse=True)[1].reshape(-1)
        match |= texts[list(one)][:, None] == texts[list(other)]
    return match


def _map(sides: dict[str, NDArray[np.float32]], items: dict[str, list[Item]]) -> Map:
    kept = {name: _distinct(items[name]) for name in sides}
    plane = geometry.plane([rows[kept[name]] for name, rows in sides.items()])
    points = [
        Point(float(x), float(y), name, items[name][number])
        for name, places in zip(sides, plane.places, strict=True)
        for (x, y), number in zip(places, kept[name], strict=True)
    ]
    return Map(points, plane.explained, plane.gap)


def _similarities(
    sides: dict[str, NDArray[np.float32]], owners: Sequence[Sequence[str]]
) -> tuple[list[float], list[float]]:
    if len(sides) == 1:
        return [], []
    one, other = sides.values()
    cosines = geometry.cosines(one, other)
    everyone = range(len(one))
    return geometry.shares(cosines.diagonal()), geometry.shares(cosines[~_belong(owners, everyone, everyone)])
