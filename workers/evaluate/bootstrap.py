"""How far a score could be off by the choice of samples: the percentile bootstrap (Efron & Tibshirani 1993, §13).

A score is a function of how often each sample counts: (r, n) multiplicities of r resamples -> (r,). With all ones it is
the score itself. So a resample costs no new similarities, whatever the score.

Letters: n samples (or queries), r resamples at a time, R resamples in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
_CHUNK_BYTES = 32 << 20
"""Of multiplicities that are held at a time."""

Counts = NDArray[np.float64]
Statistic = Callable[[Counts], NDArray[np.float64]]
"""Multiplicities of the samples, (r, n) -> what the score then is, (r,)."""


def value(statistic: Statistic, samples: int) -> float:
    """The score of all samples, each once."""
    return float(statistic(np.ones((1, samples)))[0])


def interval(statistic: Statistic, groups: Sequence[int], seed: int) -> tuple[float, float]:
    """The middle 95 % of the scores of RESAMPLES resamples. Same seed, same interval.

    groups: how many samples each group has, in the order of the samples; each is drawn from by itself (the images and
    the texts of a retrieval in both directions). A resample whose score is NaN, as it has none, is left out.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    rows = max(1, _CHUNK_BYTES // (8 * sum(groups)))
    parts = []
    for start in range(0, RESAMPLES, rows):
        drawn = [[_drawn(size, generator) for size in groups] for _ in range(min(rows, RESAMPLES - start))]
        parts.append(statistic(np.array([np.concatenate(each) for each in drawn])))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(np.concatenate(parts), [tail, 1 - tail])
    return float(low), float(high)


def _drawn(size: int, generator: np.random.Generator) -> Counts:
    return np.bincount(generator.integers(0, size, size), minlength=size).astype(np.float64)


# --- statistics ---------------------------------------------------------------------------------------


def mean_of(values: NDArray[np.floating], before: int = 0) -> Statistic:
    """The mean of values (m,), which are those of the samples from number `before` on."""
    wide = values.astype(np.float64)

    def mean(counts: Counts) -> NDArray[np.float64]:
        own = counts[:, before : before + len(values)]
        means: NDArray[np.float64] = own @ wide / own.sum(1)
        return means

    return mean


def median_of(values: NDArray[np.floating], before: int = 0) -> Statistic:
    """The median likewise: of an even number, the mean of the two in the middle."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]

    def median(counts: Counts) -> NDArray[np.float64]:
        up_to = counts[:, before : before + len(values)][:, order].cumsum(1)
        middle = [ascending[(up_to <= np.floor((up_to[:, -1:] - odd) / 2)).sum(1)] for odd in (1, 0)]
        halfway: NDArray[np.float64] = (middle[0] + middle[1]) / 2
        return halfway

    return median


def mean_over_classes(values: NDArray[np.floating], labels: NDArray[np.int64]) -> Statistic:
    """The mean over the classes of the mean of (n,); classes without a sample don't count."""
    order = np.argsort(labels, kind="stable")
    ordered = values[order].astype(np.float64)
    starts = np.unique(labels[order], return_index=True)[1]

    def mean(counts: Counts) -> NDArray[np.float64]:
        by_class = counts[:, order]
        sizes = np.add.reduceat(by_class, starts, axis=1)
        sums = np.add.reduceat(by_class * ordered, starts, axis=1)
        means: NDArray[np.float64] = (sums / np.maximum(sizes, 1)).sum(1) / (sizes > 0).sum(1)
        return means

    return mean


def average_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of several."""
    return lambda counts: np.mean([statistic(counts) for statistic in statistics], axis=0)
