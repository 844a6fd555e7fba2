"""Keys of contents: equal for equal ones, different for others, 0 for nobody."""

from __future__ import annotations

import numpy as np

from workers.train.keys import draw_keys, token_keys


def test_equal_tokens_have_equal_keys_and_others_do_not() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(0, 1000, (20_000, 12)).astype(np.int32)
    tokens[1] = tokens[0]
    keys = token_keys(tokens)
    assert keys.dtype == np.int64
    assert keys[0] == keys[1]
    assert len(np.unique(keys)) == len(np.unique(tokens, axis=0))
    assert (keys != 0).all()


def test_neighbours_have_different_keys() -> None:
    """One token more or less, two that change places: sums of plain products would meet."""
    grid = np.stack(np.meshgrid(*[np.arange(12, dtype=np.int32)] * 4), -1).reshape(-1, 4)
    keys = token_keys(grid)
    assert len(np.unique(keys)) == len(grid)
    # Each bit of a key is set in about half of them.
    bits = (keys.view(np.uint64)[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02


def test_padding_tokens_count_by_their_place() -> None:
    short = np.array([[1, 2, 9, 9], [1, 2, 2, 9], [1, 2, 9, 2]], np.int32)
    assert len(np.unique(token_keys(short))) == 3


def test_draws_depend_on_the_sample_the_side_and_the_step_alone() -> None:
    ids = np.array([5, -7, 2**60])
    keys = draw_keys(ids, "image", 0, 3)
    assert np.array_equal(draw_keys(ids[::-1], "image", 0, 3)[::-1], keys)
    others = [draw_keys(ids, "text", 0, 3), draw_keys(ids, "image", 1, 3), draw_keys(ids, "image", 0, 4)]
    assert len(np.unique(np.concatenate([keys, *others]))) == 12
