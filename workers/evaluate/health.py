"""How the features of an evaluation's pairs lie on the sphere (Wang & Isola 2020): the figures that training measures
of its batches (workers/train/health.py), of data that it does not see.

    alignment        mean squared distance of positives; 0…4, less is better
    uniformity       log mean exp(-2·squared distance) of different contents, by side and the mean of both; about -4…0,
                     less is better
    effective_rank   exp of the entropy of the singular values, by side; 1…d, more is better
    feature_std      mean over the dimensions of the standard deviation, by side; 0…1/√d, more is better (Chen & He
                     2021, fig. 2)
    mean_cosine      of different contents, by side; less is better

Beside them two histograms, of the cosines of positives and of negatives. Of SAMPLE pairs at most, drawn by the seed:
their distances among each other take 32 MiB a side. Chance is what a collapsed model has. Features that are no numbers
are 0.

Letters: n pairs, d width, r resamples.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from jobspecs.errors import DataError
from jobspecs.evaluation import Health
from workers.data.keyed import permutation
from workers.evaluate.bootstrap import Counts, Statistic, average_of, mean_of
from workers.evaluate.encode import Encoder
from workers.evaluate.pairs import encoded_pairs
from workers.evaluate.result import Histograms, Measured, Scores, scored
from workers.sphere import effective_rank

SAMPLE = 2048
BINS = 40


def health(spec: Health, encoder: Encoder) -> Scores:
    """The scores above; `uniformity` is the main one. Raises DataError: fewer than two contents on a side."""
    pairs = encoded_pairs(spec, encoder)
    drawn = np.sort(permutation(len(pairs.relevance.query), "health", spec.seed)[:SAMPLE])
    items = pairs.relevance.query[drawn], pairs.relevance.candidate[drawn]
    if any(len(np.unique(each)) < 2 for each in items):
        raise DataError(f"evaluation {spec.name!r} needs two different samples at least. Name more data.")
    first, second = (
        np.nan_to_num(features[item].astype(np.float64), posinf=0, neginf=0)
        for features, item in zip((pairs.first, pairs.second), items, strict=True)
    )
    positives, cross = (first * second).sum(1), first @ second.T
    sides = [_side(*each) for each in zip((first, second), items, strict=True)]
    measured = {
        "uniformity": Measured(average_of([side["uniformity"].statistic for side in sides]), 0.0),
        "alignment": Measured(mean_of(((first - second) ** 2).sum(1)), 0.0),
    }
    for name, side in zip(pairs.sides, sides, strict=True):
        measured |= {f"{name}_{score}": figure for score, figure in side.items()}
    others = ~_are_positives(items, pairs.relevance.query, pairs.relevance.candidate, len(pairs.second))
    return scored(
        spec,
        encoder.data,
        measured,
        groups=(len(drawn),),
        samples=len(drawn),
        skipped=pairs.skipped,
        data_fingerprint=pairs.fingerprint,
        histograms=Histograms(BINS, {"positives": _shares(positives), "negatives": _shares(cross[others])}),
    )


def _side(rows: NDArray[np.float64], items: NDArray[np.int64]) -> dict[str, Measured]:
    """Figures of (n, d), of which equal `items` (n,) are the same content."""
    different = (items[:, None] != items).astype(np.float64)
    cosines = rows @ rows.T
    potential = over_pairs(np.exp(4 * cosines - 4), different)

    def rank(counts: Counts) -> NDArray[np.float64]:
        return np.array([effective_rank(torch.from_numpy(np.sqrt(row)[:, None] * rows)) for row in counts])

    def deviation(counts: Counts) -> NDArray[np.float64]:
        total = counts.sum(1, keepdims=True)
        variance = counts @ rows**2 / total - (counts @ rows / total) ** 2
        deviations: NDArray[np.float64] = np.sqrt(np.maximum(variance, 0)).mean(1)
        return deviations

    return {
        "uniformity": Measured(lambda counts: np.log(potential(counts)), 0.0),
        "effective_rank": Measured(rank, 1.0),
        "feature_std": Measured(deviation, 0.0),
        "mean_cosine": Measured(over_pairs(cosines, different), 1.0),
    }


def over_pairs(values: NDArray[np.float64], different: NDArray[np.float64]) -> Statistic:
    """The mean of `values` (n, n) over the pairs that are `different` (n, n); NaN of a resample without any."""
    values = values * different

    def mean(counts: Counts) -> NDArray[np.float64]:
        pairs = ((counts @ different) * counts).sum(1)
        sums = ((counts @ values) * counts).sum(1)
        means: NDArray[np.float64] = np.where(pairs > 0, sums / np.maximum(pairs, 1), np.nan)
        return means

    return mean


def _are_positives(
    items: tuple[NDArray[np.int64], NDArray[np.int64]],
    query: NDArray[np.int64],
    candidate: NDArray[np.int64],
    candidates: int,
) -> NDArray[np.bool_]:
    """(n, n): whether the first of a pair and the second of another belong together."""
    return np.isin(items[0][:, None] * candidates + items[1], query * candidates + candidate)


def _shares(cosines: NDArray[np.float64]) -> list[float]:
    """In equal bins from -1 to 1; 0 throughout where there are none."""
    counts = np.histogram(np.clip(cosines, -1, 1), BINS, (-1, 1))[0]
    shares: list[float] = (counts / max(1, len(cosines))).round(6).tolist()
    return shares
