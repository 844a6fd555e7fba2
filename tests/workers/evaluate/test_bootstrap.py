"""Intervals against theory, and statistics of resamples against those of the drawn samples themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from workers.evaluate.bootstrap import (
    Statistic,
    average_of,
    interval,
    mean_of,
    mean_over_classes,
    median_of,
    value,
)
from workers.evaluate.sts import pearson, spearman

N = 41
RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 9, N) / 4
LABELS = RNG.integers(0, 5, N)
GOLD = RNG.integers(0, 6, N).astype(float)
COSINES = np.round(GOLD / 10 + RNG.normal(0, 0.3, N), 1)

STATISTICS: dict[str, tuple[Statistic, object]] = {
    "mean": (mean_of(VALUES), lambda rows: VALUES[rows].mean()),
    "mean of a group": (mean_of(VALUES[10:], 10), lambda rows: VALUES[rows[rows >= 10]].mean()),
    "median": (median_of(VALUES), lambda rows: np.median(VALUES[rows])),
    "per class": (
        mean_over_classes(LABELS == 2 * VALUES, LABELS),
        lambda rows: np.mean([(LABELS == 2 * VALUES)[rows][LABELS[rows] == c].mean() for c in set(LABELS[rows])]),
    ),
    "average": (
        average_of([mean_of(VALUES), median_of(VALUES)]),
        lambda rows: (VALUES[rows].mean() + np.median(VALUES[rows])) / 2,
    ),
    "spearman": (spearman(COSINES, GOLD), lambda rows: scipy.stats.spearmanr(COSINES[rows], GOLD[rows])[0]),
    "pearson": (pearson(COSINES, GOLD), lambda rows: scipy.stats.pearsonr(COSINES[rows], GOLD[rows])[0]),
}  # fmt: skip


@pytest.mark.parametrize("name", STATISTICS)
def test_a_resample_is_scored_as_if_it_were_the_samples(name: str) -> None:
    statistic, of_rows = STATISTICS[name]
    drawn = [np.arange(N), np.arange(N - 1), *(RNG.integers(0, N, N) for _ in range(20))]
    counts = np.array([np.bincount(rows, minlength=N) for rows in drawn], float)
    assert statistic(counts) == pytest.approx([of_rows(rows) for rows in drawn])  # type: ignore[operator]
    assert value(statistic, N) == pytest.approx(of_rows(np.arange(N)))  # type: ignore[operator]


def test_per_class_is_scikit_learns() -> None:
    guesses = RNG.integers(0, 5, N)
    expected = sklearn.metrics.balanced_accuracy_score(LABELS, guesses)
    assert value(mean_over_classes(guesses == LABELS, LABELS), N) == pytest.approx(expected)


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    hits = (np.random.default_rng(1).random(2000) < 0.3).astype(float)
    low, high = interval(mean_of(hits), (2000,), seed=0)
    error = np.sqrt(hits.mean() * (1 - hits.mean()) / 2000)
    # The bounds themselves are estimates, off by about 5 % of the width.
    assert (low, high) == pytest.approx((hits.mean() - 1.96 * error, hits.mean() + 1.96 * error), abs=0.3 * error)


def test_the_interval_is_scipys() -> None:
    def spearman_of(rows: np.ndarray) -> float:
        return float(scipy.stats.spearmanr(COSINES[rows], GOLD[rows])[0])

    theirs = scipy.stats.bootstrap(
        (np.arange(N),), spearman_of, n_resamples=1000, method="percentile", vectorized=False, rng=1
    ).confidence_interval
    assert interval(spearman(COSINES, GOLD), (N,), seed=0) == pytest.approx((theirs.low, theirs.high), abs=0.06)


def test_the_same_seed_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first = interval(mean_of(VALUES), (N,), seed=3)
    monkeypatch.setattr("workers.evaluate.bootstrap._CHUNK_BYTES", 1 << 12)
    assert interval(mean_of(VALUES), (N,), seed=3) == pytest.approx(first)
    assert interval(mean_of(VALUES), (N,), seed=4) != first


def test_groups_are_drawn_from_each_by_itself() -> None:
    seen = []

    def statistic(counts: np.ndarray) -> np.ndarray:
        seen.append(counts)
        return counts[:, 0]

    interval(statistic, (3, 7), seed=0)
    assert {(row[:3].sum(), row[3:].sum()) for counts in seen for row in counts} == {(3, 7)}
