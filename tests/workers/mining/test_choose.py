"""What is chosen, and what never is, whatever the candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobspecs.mining import MaxSimilarity, Mining, Ranks
from workers.evaluate.search import TopK
from workers.mining.choose import bound, choose
from workers.mining.nearest import Block, nearest


def settings_of(**fields: Any) -> Mining:
    return Mining.model_validate(fields)


@st.composite
def minings(draw: st.DrawFn) -> Mining:
    first = draw(st.integers(1, 6))
    last = draw(st.integers(first, 12))
    return Mining(
        count=draw(st.integers(1, last - first + 1)),
        ranks=Ranks(first=first, last=last),
        max_similarity_to_positive=MaxSimilarity(
            relative=draw(st.none() | st.floats(0.1, 1.0)), absolute=draw(st.none() | st.floats(-1, 1))
        ),
        sampling=draw(st.sampled_from(["top", "random"])),
        seed=draw(st.integers(0, 3)),
    )


@st.composite
def candidates(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Keys, with copies; scores, with ties and some that are none; known positives, some of them candidates."""
    keys = np.array(draw(st.lists(st.integers(-8, 8), max_size=25)), np.int64)
    number = st.integers(-8, 8).map(lambda eighths: eighths / 8) | st.sampled_from([np.nan, -np.inf])
    scores = np.array(draw(st.lists(number, min_size=len(keys), max_size=len(keys))), np.float32)
    return keys, scores, np.array(draw(st.lists(st.integers(-8, 8), max_size=3)), np.int64)


def reference(
    keys: NDArray[np.int64], scores: NDArray[np.float32], known: NDArray[np.int64], mining: Mining
) -> list[tuple[int, float]]:
    """Key and score of all that have a rank, by plain loops; the first has rank 1."""
    found: dict[int, float] = {}
    for key, score in zip(keys.tolist(), scores.tolist(), strict=True):
        if np.isfinite(score) and key not in known:
            found[key] = max(score, found.get(key, -np.inf))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


@given(candidates(), minings(), st.floats(-1, 1), st.integers(-5, 5), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=300)
def test_no_negative_breaks_a_rule(given_: Any, mining: Mining, positive: float, query: int, random: Any) -> None:
    keys, scores, known = given_
    chosen = choose(keys, scores, query, known, positive, mining)
    picked = keys[chosen].tolist()
    assert not set(picked) & set(known.tolist())
    assert len(set(picked)) == len(picked) <= mining.count
    similarity = mining.max_similarity_to_positive
    for score in scores[chosen].tolist():
        assert similarity.absolute is None or score <= similarity.absolute
        assert similarity.relative is None or score <= positive - (1 - similarity.relative) * abs(positive)
    ranked = reference(keys, scores, known, mining)
    in_range = ranked[mining.ranks.first - 1 : mining.ranks.last]
    limit = bound(similarity, positive)
    allowed = [key for key, score in in_range if score <= limit]
    assert [key for key in allowed if key in picked] == picked, "the nearest first, and only ranks in range"
    assert len(picked) == min(mining.count, len(allowed)), "no fewer than there are"
    if mining.sampling == "top":
        assert picked == allowed[: mining.count]
    order = np.array(random.sample(range(len(keys)), len(keys)), np.int64)
    again = order[choose(keys[order], scores[order], query, known, positive, mining)]
    assert keys[again].tolist() == picked, "in any order"


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_the_division_into_blocks_changes_nothing(data: st.DataObject) -> None:
    draws = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count, k = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 12))
    # Few directions: many candidates score the same.
    vectors = np.eye(4, dtype=np.float32)[draws.integers(0, 4, count)]
    queries = np.eye(4, dtype=np.float32)
    whole = nearest(queries, [Block(np.arange(count), vectors)], k)
    of_block = draws.integers(0, data.draw(st.integers(1, 5)), count)
    shuffled = draws.permutation(count)
    blocks = [Block(rows, vectors[rows]) for n in draws.permutation(5) for rows in [shuffled[of_block[shuffled] == n]]]
    parts = nearest(queries, blocks, k)
    assert parts.indexes.shape == parts.scores.shape == (4, k)
    np.testing.assert_array_equal(parts.indexes, whole.indexes)
    np.testing.assert_array_equal(parts.scores, whole.scores)
    assert_is_exact(whole, queries @ vectors.T)


def assert_is_exact(found: TopK, scores: NDArray[np.float32]) -> None:
    for row, all_scores in enumerate(scores):
        expected = sorted(range(len(all_scores)), key=lambda number: (-all_scores[number], number))
        there = [number for number in found.indexes[row].tolist() if number >= 0]
        assert there == expected[: len(there)]
        assert len(there) == min(found.indexes.shape[1], len(all_scores))


@pytest.mark.parametrize(
    ("positive", "relative", "absolute", "expected"),
    [(0.8, 0.5, None, 0.4), (-0.4, 0.5, None, -0.6), (0.8, 0.5, 0.3, 0.3), (0.8, None, None, np.inf)],
)
def test_the_bound(positive: float, relative: float | None, absolute: float | None, expected: float) -> None:
    assert bound(MaxSimilarity(relative=relative, absolute=absolute), positive) == pytest.approx(expected)


def test_a_positive_without_a_score_leaves_nothing_below_it() -> None:
    keys, scores, known = np.arange(3), np.array([0.3, 0.2, 0.1], np.float32), np.array([], np.int64)
    assert not len(choose(keys, scores, 0, known, np.nan, settings_of(count=1)))
    unbounded = settings_of(count=1, max_similarity_to_positive={"relative": None})
    assert choose(keys, scores, 0, known, np.nan, unbounded).tolist() == [0]


def test_draws_follow_seed_and_query() -> None:
    keys, scores, known = np.arange(50), np.linspace(0.5, 0.1, 50, dtype=np.float32), np.array([], np.int64)

    def drawn(query: int, seed: int) -> list[int]:
        mining = settings_of(count=5, sampling="random", seed=seed)
        return choose(keys, scores, query, known, 0.9, mining).tolist()

    assert drawn(1, 0) == drawn(1, 0) != drawn(2, 0)
    assert drawn(1, 0) != drawn(1, 1)
    means = [np.mean(drawn(query, 0)) for query in range(300)]
    assert np.mean(means) == pytest.approx(24.5, abs=1.2)  # 300 means of 5 of 50: standard error 0.35
